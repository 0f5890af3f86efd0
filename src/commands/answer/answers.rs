//! The file of known answers (`item name,class`), and what it says about an item.
//!
//! Private to `answer`. Which answers are wrong on purpose depends on seed and name alone.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use anyhow::{Context, bail};
use rand::Rng;

use crate::domain::content_hash::ContentHash;
use crate::domain::seed::StreamKey;

/// Names that a message lists before it only counts.
const SHOWN_NAME_COUNT: usize = 5;

/// What is known, and how often it is told wrongly.
pub(super) struct Answers {
    known: HashMap<String, String>,
    classes: Vec<String>,
    error_rate: f64,
    seed: u64,
}

/// What a labeler does with one item.
#[derive(Debug, PartialEq)]
pub(super) enum Answer<'a> {
    /// Label it with this class of the project.
    Class(&'a str),
    /// Skip it for this reason.
    Skip(&'static str),
}

impl Answers {
    /// Reads the file at `path` for a project of these classes.
    pub(super) fn read(
        path: &Path,
        classes: Vec<String>,
        error_rate: f64,
        seed: u64,
    ) -> anyhow::Result<Self> {
        Ok(Self { known: read_answers(path)?, classes, error_rate, seed })
    }

    /// Says which classes of the file the project doesn't have; an error when it has none of them, since every item would be skipped.
    pub(super) fn check_classes(&self, path: &Path) -> anyhow::Result<Option<String>> {
        let classes: BTreeSet<&str> = self.known.values().map(String::as_str).collect();
        let is_unknown = |class: &&str| !self.classes.iter().any(|known| known == class);
        let unknown: Vec<&str> = classes.iter().copied().filter(is_unknown).collect();
        let (path, shown) = (path.display(), shorten(&unknown));
        if unknown.is_empty() {
            return Ok(None);
        }
        if unknown.len() == classes.len() {
            let have: Vec<&str> = self.classes.iter().map(String::as_str).collect();
            bail!(
                "no class of {path} is one of the project's: the file has {shown}, the project {}",
                shorten(&have)
            );
        }
        Ok(Some(format!("{path} has classes that the project doesn't: {shown}; their items are skipped")))
    }

    /// What to do with the item of this name.
    pub(super) fn of(&self, name: &str) -> Answer<'_> {
        let Some(class) = self.known.get(name) else {
            return Answer::Skip("unsure");
        };
        if !self.classes.contains(class) {
            return Answer::Skip("not_in_classes");
        }
        let mut stream = StreamKey::new(self.seed, "answer.error")
            .with_content(&ContentHash::of_file(name.as_bytes()))
            .stream();
        if stream.random::<f64>() < self.error_rate {
            let wrong: Vec<_> = self.classes.iter().filter(|other| *other != class).collect();
            if !wrong.is_empty() {
                return Answer::Class(wrong[stream.random_range(0..wrong.len())]);
            }
        }
        Answer::Class(class)
    }
}

/// Reads `item name,class`; a first row that says just that is a header.
fn read_answers(path: &Path) -> anyhow::Result<HashMap<String, String>> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .from_path(path)
        .with_context(|| format!("{} can't be read", path.display()))?;
    let mut known = HashMap::new();
    for (index, row) in reader.records().enumerate() {
        let row = row.with_context(|| format!("{} is no CSV file", path.display()))?;
        let (Some(name), Some(class)) = (row.get(0), row.get(1)) else {
            bail!("line {} of {} has no two columns 'item name,class'", index + 1, path.display());
        };
        let (name, class) = (name.trim(), class.trim());
        if index == 0 && class == "class" {
            continue;
        }
        if let Some(other) = known.insert(name.to_owned(), class.to_owned())
            && other != class
        {
            bail!(
                "line {} of {} says '{class}' for {name}, an earlier one '{other}'",
                index + 1,
                path.display()
            );
        }
    }
    Ok(known)
}

/// The first names of a list, and how many more there are.
pub(super) fn shorten(names: &[&str]) -> String {
    let (shown, rest) = names.split_at(names.len().min(SHOWN_NAME_COUNT));
    let more = if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
    format!("{}{more}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(error_rate: f64) -> Answers {
        let known = [("train/00000", "Coat"), ("train/00001", "Spaceship")];
        Answers {
            known: known.map(|(name, class)| (name.to_owned(), class.to_owned())).into(),
            classes: vec!["Coat".to_owned(), "Bag".to_owned()],
            error_rate,
            seed: 7,
        }
    }

    #[test]
    fn an_unknown_name_and_an_unknown_class_are_skipped_with_their_reasons() {
        assert_eq!(answers(0.0).of("train/00000"), Answer::Class("Coat"));
        assert_eq!(answers(0.0).of("train/00001"), Answer::Skip("not_in_classes"));
        assert_eq!(answers(0.0).of("train/00002"), Answer::Skip("unsure"));
    }

    #[test]
    fn an_error_rate_of_one_gives_another_class_each_time() {
        assert_eq!(answers(1.0).of("train/00000"), Answer::Class("Bag"));
    }

    #[test]
    fn a_header_is_no_answer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers.csv");
        std::fs::write(&path, "name,class\ntrain/00000,Coat\n\"a,b\",Bag\n").unwrap();
        let known = read_answers(&path).unwrap();
        assert_eq!(known.len(), 2);
        assert_eq!(known["a,b"], "Bag");
    }

    #[test]
    fn a_name_with_two_classes_is_named_with_both() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers.csv");
        std::fs::write(&path, "train/00000,Coat\ntrain/00000,Coat\ntrain/00000,Bag\n").unwrap();
        let error = read_answers(&path).unwrap_err().to_string();
        assert!(error.contains("line 3") && error.contains("'Bag' for train/00000"), "{error}");
    }

    #[test]
    fn a_line_without_a_class_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("answers.csv");
        std::fs::write(&path, "train/00000,Coat\ntrain/00001\n").unwrap();
        assert!(read_answers(&path).unwrap_err().to_string().contains("line 2"));
    }
}
