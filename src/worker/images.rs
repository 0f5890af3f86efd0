//! Where the images of Label Studio's tasks are found: in the project itself, in an allowed folder, or at their address.
//!
//! Called on a thread that may block; it waits for the database, the object store and the network through the runtime.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::runtime::Handle;

use super::Workshop;
use crate::blob::pack_key;
use crate::domain::class_folder;
use crate::domain::ids::{ItemId, ProjectId};
use crate::domain::label_studio::ItemKey;
use crate::import::{ImageFinder, resolve_allowed};
use crate::outbound::GuardedClient;
use crate::store::{item, label_studio};

/// Bytes of one image at most.
const IMAGE_BYTES_MAX: usize = 64 << 20;

/// How far imports reach beyond their source.
#[derive(Clone, Debug, Default)]
pub(super) struct Reach {
    /// Fetches images by address.
    pub(super) client: Option<GuardedClient>,
    /// Folders that may be read.
    pub(super) roots: Arc<[PathBuf]>,
}

/// Finds images for one import.
pub(super) struct TaskImages {
    workshop: Workshop,
    project: ProjectId,
    runtime: Handle,
    /// Where relative names begin; none for an upload, which has no folder.
    folder: Option<PathBuf>,
    roots: Vec<PathBuf>,
}

impl TaskImages {
    /// Images for the tasks in `source`, whose own folder may be read as it may.
    pub(super) fn new(workshop: &Workshop, project: ProjectId, source: &Path, uploaded: bool) -> Self {
        let folder = source.parent().filter(|_| !uploaded).map(Path::to_owned);
        let roots = workshop.reach.roots.iter().cloned().chain(folder.clone()).collect();
        Self { workshop: workshop.clone(), project, runtime: Handle::current(), folder, roots }
    }

    /// The image of the item that one of the keys names, the surest first.
    async fn read_known(&self, keys: &[ItemKey]) -> anyhow::Result<Option<Vec<u8>>> {
        let mut connection = self.workshop.store.acquire().await?;
        let found = label_studio::find_items(&mut connection, self.project, keys).await?;
        let named = |key: &ItemKey| -> Option<ItemId> {
            let is_named = |item: &&label_studio::FoundItem| match key {
                ItemKey::Id(id) => item.id == *id,
                ItemKey::Name(name) => item.name == *name,
            };
            found.iter().find(is_named).map(|item| item.id)
        };
        let Some(id) = keys.iter().find_map(named) else { return Ok(None) };
        let Some(row) = item::find(&mut connection, id).await? else { return Ok(None) };
        drop(connection);
        let start = u64::try_from(row.pack_offset)?;
        let end = start + u64::try_from(row.pack_length)?;
        Ok(Some(self.workshop.blob.get_range(&pack_key(row.project, row.segment), start..end).await?))
    }

    fn read_file(&self, address: &str) -> Result<Vec<u8>, String> {
        let named = match address.split_once("/data/local-files/?d=") {
            Some((_, name)) => class_folder::decode(name),
            None => address.strip_prefix("file://").unwrap_or(address).to_owned(),
        };
        let candidates = match (Path::new(&named).is_absolute(), &self.folder) {
            (true, _) => vec![PathBuf::from(&named)],
            (false, folder) => folder.iter().chain(&self.roots).map(|root| root.join(&named)).collect(),
        };
        let mut refusal = "it is no address and no path".to_owned();
        for candidate in candidates {
            match resolve_allowed(&candidate.to_string_lossy(), &self.roots) {
                Ok(path) => return read_bounded(&path),
                Err(error) => refusal = error.to_string(),
            }
        }
        Err(refusal)
    }
}

impl ImageFinder for TaskImages {
    fn find(&mut self, keys: &[ItemKey], address: &str) -> Result<Vec<u8>, String> {
        match self.runtime.block_on(self.read_known(keys)) {
            Ok(Some(bytes)) => return Ok(bytes),
            Ok(None) => {}
            Err(error) => return Err(format!("the project's own image can't be read: {error:#}")),
        }
        if !address.starts_with("http://") && !address.starts_with("https://") {
            return self.read_file(address);
        }
        match &self.workshop.reach.client {
            Some(client) => {
                let fetched = self.runtime.block_on(client.get(address, IMAGE_BYTES_MAX));
                fetched.map_err(|error| format!("the image can't be fetched: {error}"))
            }
            None => Err("this process fetches no images".to_owned()),
        }
    }
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, String> {
    let length = path.metadata().map_err(|error| error.to_string())?.len();
    if length > IMAGE_BYTES_MAX as u64 {
        return Err(format!("the file is larger than {IMAGE_BYTES_MAX} bytes"));
    }
    std::fs::read(path).map_err(|error| error.to_string())
}
