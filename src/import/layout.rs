//! What the path of an entry says: its split and its class; and which paths are unfit.
//!
//! Private to `import`. A source of images is laid out as images, as one folder a class, or as train and test folders of either; all of it
//! may stand in wrapping folders. Without train and test folders, folders that hold every entry are taken for such a wrapper.

use std::collections::BTreeSet;

use crate::domain::class_folder;
use crate::domain::item::Split;

const NAME_LENGTH_MAX: usize = 1024;

/// The folders of a source, collected before its entries are read.
#[derive(Debug, Default)]
pub(super) struct Survey {
    folders: BTreeSet<Vec<String>>,
    entry_count: u64,
}

impl Survey {
    /// Notes an entry that will be yielded; `name` is clean.
    pub(super) fn add(&mut self, name: &str) {
        self.entry_count += 1;
        let mut folders: Vec<_> = name.split('/').map(str::to_owned).collect();
        folders.pop();
        if !self.folders.contains(&folders) {
            self.folders.insert(folders);
        }
    }

    /// Notes an entry that will be yielded as a rejection of its name.
    pub(super) fn add_unfit(&mut self) {
        self.entry_count += 1;
    }

    /// Entries noted so far.
    pub(super) fn entry_count(&self) -> u64 {
        self.entry_count
    }

    /// What the folders mean.
    pub(super) fn layout(&self) -> Layout {
        let first = self.folders.first().cloned().unwrap_or_default();
        let shared = |depth: usize| self.folders.iter().all(|folders| folders.get(depth) == first.get(depth));
        let wrapper_depth =
            (0..first.len()).take_while(|&depth| split_of(&first[depth]).is_none() && shared(depth)).count();
        let mut layout = Layout { wrapper_depth, class_names: vec![] };
        let classes: BTreeSet<_> =
            self.folders.iter().filter_map(|folders| layout.place_folders(folders).1).collect();
        layout.class_names = classes.into_iter().collect();
        layout
    }
}

/// Reads split and class from names.
#[derive(Debug)]
pub(super) struct Layout {
    wrapper_depth: usize,
    /// Every class folder, decoded and sorted.
    pub(super) class_names: Vec<String>,
}

impl Layout {
    /// Split and class of a clean name.
    pub(super) fn place(&self, name: &str) -> (Option<Split>, Option<String>) {
        let mut folders: Vec<_> = name.split('/').collect();
        folders.pop();
        self.place_folders(&folders)
    }

    fn place_folders<S: AsRef<str>>(&self, folders: &[S]) -> (Option<Split>, Option<String>) {
        let inner = folders.get(self.wrapper_depth..).unwrap_or_default();
        let split = inner.first().and_then(|folder| split_of(folder.as_ref()));
        let class = if split.is_some() { inner.get(1) } else { inner.first() };
        (split, class.map(|folder| class_folder::decode(folder.as_ref())))
    }
}

fn split_of(folder: &str) -> Option<Split> {
    match folder.to_ascii_lowercase().as_str() {
        "train" | "training" | "pool" => Some(Split::Pool),
        "test" | "testing" | "val" | "valid" | "validation" => Some(Split::Test),
        _ => None,
    }
}

/// The folder right above an entry, decoded: the class of images that all lie in one folder, if the project has a class of that name.
pub(super) fn enclosing_folder(name: &str) -> Option<String> {
    let (folders, _) = name.rsplit_once('/')?;
    folders.rsplit('/').next().map(class_folder::decode)
}

/// Why a path can't name an item.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UnfitName {
    /// The path as far as it can be shown.
    pub(super) shown: String,
    /// What is wrong with it.
    pub(super) reason: String,
}

/// The path inside a source with `/` between its parts; `None` for files that systems leave behind and nobody means.
pub(super) fn clean_name(raw: &[u8]) -> Result<Option<String>, UnfitName> {
    let unfit = |reason: &str| {
        let shown = String::from_utf8_lossy(raw).chars().take(200).flat_map(char::escape_default).collect();
        UnfitName { shown, reason: reason.to_owned() }
    };
    let Ok(name) = std::str::from_utf8(raw) else {
        return Err(unfit("the name isn't UTF-8"));
    };
    if name.len() > NAME_LENGTH_MAX {
        return Err(unfit("the name is longer than 1024 bytes"));
    }
    if name.chars().any(char::is_control) {
        return Err(unfit("the name holds control characters"));
    }
    let parts: Vec<_> = name.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if name.starts_with('/') || parts.contains(&"..") {
        return Err(unfit("the name leads out of the source"));
    }
    let left_behind =
        |part: &&str| part.starts_with('.') || matches!(*part, "__MACOSX" | "Thumbs.db" | "desktop.ini");
    if parts.is_empty() || parts.iter().any(left_behind) {
        return Ok(None);
    }
    Ok(Some(parts.join("/")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(names: &[&str]) -> Vec<(Option<Split>, Option<String>)> {
        let mut survey = Survey::default();
        names.iter().for_each(|name| survey.add(name));
        let layout = survey.layout();
        names.iter().map(|name| layout.place(name)).collect()
    }

    fn class(name: &str) -> Option<String> {
        Some(name.to_owned())
    }

    #[test]
    fn train_and_test_folders_are_splits_and_the_next_folder_is_the_class() {
        let placed = place(&["train/cat/1.png", "test/dog/a/2.png", "Train/3.png"]);
        assert_eq!(placed[0], (Some(Split::Pool), class("cat")));
        assert_eq!(placed[1], (Some(Split::Test), class("dog")));
        assert_eq!(placed[2], (Some(Split::Pool), None));
        let wrapped = place(&["photos/2024/train/cat/1.png", "photos/2024/test/cat/2.png"]);
        assert_eq!(wrapped, [(Some(Split::Pool), class("cat")), (Some(Split::Test), class("cat"))]);
        assert_eq!(place(&["train/cat/1.png"]), [(Some(Split::Pool), class("cat"))]);
    }

    #[test]
    fn class_folders_without_a_split_are_found_inside_a_wrapper() {
        assert_eq!(place(&["x/cat/1.png", "x/dog/2.png"]), [(None, class("cat")), (None, class("dog"))]);
        assert_eq!(
            place(&["cat/1.png", "dog/2.png", "3.png"]),
            [(None, class("cat")), (None, class("dog")), (None, None)]
        );
    }

    #[test]
    fn a_folder_of_images_has_neither_split_nor_class() {
        assert_eq!(place(&["1.png", "2.png"]), [(None, None), (None, None)]);
        assert_eq!(place(&["pile/1.png", "pile/2.png"]), [(None, None), (None, None)]);
        assert_eq!(enclosing_folder("x/a%2Fb/1.png"), class("a/b"));
        assert_eq!(enclosing_folder("1.png"), None);
    }

    #[test]
    fn class_folders_are_percent_decoded() {
        assert_eq!(place(&["train/T-shirt%2Ftop/1.png"])[0].1, class("T-shirt/top"));
        let mut survey = Survey::default();
        ["train/b/1", "test/a%2Fb/1", "test/b/2"].iter().for_each(|name| survey.add(name));
        assert_eq!(
            (survey.entry_count(), survey.layout().class_names),
            (3, vec!["a/b".to_owned(), "b".to_owned()])
        );
    }

    #[test]
    fn names_that_lead_out_or_cannot_be_stored_are_unfit() {
        let reason = |raw: &[u8]| clean_name(raw).unwrap_err().reason;
        assert_eq!(reason(b"../x.png"), "the name leads out of the source");
        assert_eq!(reason(b"a/../../x.png"), "the name leads out of the source");
        assert_eq!(reason(b"/etc/passwd"), "the name leads out of the source");
        assert_eq!(reason(b"a\0b.png"), "the name holds control characters");
        assert_eq!(reason(b"\xff.png"), "the name isn't UTF-8");
        assert_eq!(reason(&[b'a'; 2000]), "the name is longer than 1024 bytes");
        assert_eq!(clean_name(b"./a//b.png"), Ok(Some("a/b.png".to_owned())));
        assert_eq!(clean_name(b"__MACOSX/a/._b.png"), Ok(None));
        assert_eq!(clean_name(b"a/.DS_Store"), Ok(None));
    }
}
