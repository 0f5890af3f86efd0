//! The labelled images themselves, a folder for each class, as import reads them back.
//!
//! Files keep their items' names with the folders encoded into them, so that no two meet. What a folder already holds is overwritten by name and
//! otherwise left.

use std::path::Path;

use anyhow::{Context, bail};

use crate::blob::pack_key;
use crate::commands::house::House;
use crate::domain::class_folder;
use crate::domain::ids::ProjectId;
use crate::store::item::{self, ClassifiedItem};

/// Items that are read at once.
const PAGE: i64 = 500;

/// Bytes that a file's name may have on common file systems.
const FILE_NAME_BYTES_MAX: usize = 255;

/// Writes every labelled image of the pool below `folder`.
pub(super) async fn write(house: &House, project: ProjectId, folder: &Path) -> anyhow::Result<()> {
    let (mut after, mut count) = (None, 0u64);
    loop {
        let page = {
            let mut connection = house.store.acquire().await?;
            item::list_classified(&mut connection, project, after, PAGE).await?
        };
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        for item in &page {
            write_item(house, project, folder, item).await?;
            count += 1;
        }
    }
    if count == 0 {
        bail!("no image has a label yet, so there is nothing to write");
    }
    eprintln!("{count} images below {}", folder.display());
    Ok(())
}

async fn write_item(
    house: &House,
    project: ProjectId,
    folder: &Path,
    item: &ClassifiedItem,
) -> anyhow::Result<()> {
    let start = u64::try_from(item.pack_offset)?;
    let length = u64::try_from(item.pack_length)?;
    let bytes = house.blob.get_range(&pack_key(project, item.segment), start..start + length).await?;
    let class_folder = folder.join(class_folder::encode(&item.class));
    tokio::fs::create_dir_all(&class_folder)
        .await
        .with_context(|| format!("{} can't be made", class_folder.display()))?;
    let path = class_folder.join(file_name(item));
    tokio::fs::write(&path, bytes).await.with_context(|| format!("{} can't be written", path.display()))
}

/// The item's name with an extension that fits its content; its id where that would be too long.
fn file_name(item: &ClassifiedItem) -> String {
    let extension = match item.media_type.as_str() {
        "image/jpeg" => "jpg",
        other => other.strip_prefix("image/").unwrap_or("bin"),
    };
    let name = class_folder::encode(&item.name);
    let known = name.rsplit_once('.').map(|(_, extension)| extension.to_ascii_lowercase());
    let has_extension =
        known.is_some_and(|known| known == extension || (known, extension) == ("jpeg".to_owned(), "jpg"));
    let name = if has_extension { name } else { format!("{name}.{extension}") };
    if name.len() > FILE_NAME_BYTES_MAX { format!("{}.{extension}", item.id) } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::{ItemId, SegmentId};

    #[test]
    fn files_are_named_after_their_items_and_end_as_their_content_does() {
        let name = |name: &str, media_type: &str| {
            file_name(&ClassifiedItem {
                id: ItemId::generate(),
                name: name.to_owned(),
                class: "bag".to_owned(),
                media_type: media_type.to_owned(),
                segment: SegmentId::generate(),
                pack_offset: 0,
                pack_length: 1,
            })
        };
        assert_eq!(name("train/00001", "image/png"), "train%2F00001.png");
        assert_eq!(name("cat/a.JPEG", "image/jpeg"), "cat%2Fa.JPEG");
        assert_eq!(name("../x.gif", "image/webp"), "%2E.%2Fx.gif.webp");
        assert!(name(&"ä".repeat(200), "image/png").len() < 60);
    }
}
