//! Label Studio's task JSON: `[{data, annotations, …}]`, as it exports and imports it.
//!
//! Private to `import`. The file holds addresses and no images, so the caller says where those are found (`ImageFinder`). A task whose image the
//! project has is yielded with that image, so that it counts as a duplicate. Skipped tasks and those without an answer have no class; of several
//! answers the most frequent counts, of equally frequent ones the newest.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::vec::IntoIter;

use serde_json::{Map, Value};

use super::layout::clean_name;
use super::{Entry, EntryPayload, ImportError, Source, SourceClass};
use crate::domain::label_studio::{Answer, HeardTask, ItemKey, item_keys};

/// Finds the images that tasks name.
pub trait ImageFinder: Send {
    /// The bytes of an image: of the item that one of `keys` names, else of what stands at `address`; or why there is none.
    fn find(&mut self, keys: &[ItemKey], address: &str) -> Result<Vec<u8>, String>;
}

/// A file of tasks.
pub(super) struct LabelStudioSource {
    tasks: IntoIter<HeardTask>,
    entry_count: u64,
    class_names: Vec<String>,
    finder: Box<dyn ImageFinder>,
}

/// Reads a file of tasks whole; images are looked for one after another, later.
pub fn read_tasks(path: &Path) -> Result<Vec<HeardTask>, ImportError> {
    let file = File::open(path).map_err(|source| ImportError::unreadable(path, source))?;
    serde_json::from_reader(BufReader::new(file)).map_err(|error| {
        ImportError::malformed(
            path,
            format!("it is no list of Label Studio tasks (export as JSON, not JSON_MIN): {error}"),
        )
    })
}

impl LabelStudioSource {
    pub(super) fn open(path: &Path, finder: Box<dyn ImageFinder>) -> Result<Self, ImportError> {
        let tasks = read_tasks(path)?;
        let mut class_names: Vec<String> = tasks.iter().filter_map(class_of).collect();
        class_names.sort_unstable();
        class_names.dedup();
        Ok(Self { entry_count: tasks.len() as u64, tasks: tasks.into_iter(), class_names, finder })
    }
}

impl Source for LabelStudioSource {
    fn entry_count(&self) -> Option<u64> {
        Some(self.entry_count)
    }

    fn class_names(&self) -> Option<&[String]> {
        Some(&self.class_names)
    }

    fn skip_entries(&mut self, count: u64) -> Result<(), ImportError> {
        for _ in 0..count {
            self.tasks.next();
        }
        Ok(())
    }
}

impl Iterator for LabelStudioSource {
    type Item = Result<Entry, ImportError>;

    fn next(&mut self) -> Option<Self::Item> {
        let task = self.tasks.next()?;
        Some(Ok(read_entry(&task, self.finder.as_mut())))
    }
}

fn read_entry(task: &HeardTask, finder: &mut dyn ImageFinder) -> Entry {
    let Some(address) = image_address(&task.data) else {
        let reason = "the task names no image: none of its data is an address".to_owned();
        return Entry { name: "a task".to_owned(), split: None, class: None, payload: Err(reason) };
    };
    let name = match clean_name(name_of(address).as_bytes()) {
        Ok(Some(name)) => name,
        Ok(None) => {
            let reason = "the image's address gives no name".to_owned();
            return Entry { name: address.to_owned(), split: None, class: None, payload: Err(reason) };
        }
        Err(unfit) => return Entry::unfit(unfit),
    };
    let payload = finder.find(&item_keys(&task.data, None), address).map(EntryPayload::File);
    Entry { name, split: None, class: class_of(task).map(SourceClass::Name), payload }
}

/// The image of a task: under `image`, else the first text that looks like a file.
fn image_address(data: &Map<String, Value>) -> Option<&str> {
    let named = data.get("image").and_then(Value::as_str);
    named.or_else(|| data.values().filter_map(Value::as_str).find(|text| text.contains(['/', '.'])))
}

/// The name an image gets: the last of the names that its address may stand for, which is the shortest.
fn name_of(address: &str) -> String {
    let data = Map::from_iter([("image".to_owned(), Value::from(address))]);
    match item_keys(&data, Some("image")).pop() {
        Some(ItemKey::Name(name)) => name,
        Some(ItemKey::Id(id)) => id.to_string(),
        None => String::new(),
    }
}

/// The class that most of a task's answers give.
fn class_of(task: &HeardTask) -> Option<String> {
    let mut votes: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    let mut answers: Vec<_> = task.annotations.iter().collect();
    answers.sort_by_key(|annotation| annotation.updated_at);
    for (place, annotation) in answers.into_iter().enumerate() {
        if let Ok(Answer::Class(class)) = annotation.answer(None) {
            let (count, newest) = votes.entry(class).or_default();
            *count += 1;
            *newest = place;
        }
    }
    votes.into_iter().max_by_key(|(_, standing)| *standing).map(|(class, _)| class)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    struct Shelf;

    impl ImageFinder for Shelf {
        fn find(&mut self, keys: &[ItemKey], address: &str) -> Result<Vec<u8>, String> {
            match address {
                "http://127.0.0.1:1/away.png" => Err("no answer".to_owned()),
                _ => Ok(format!("{address} {}", keys.len()).into_bytes()),
            }
        }
    }

    fn entries(tasks: &Value) -> Vec<Entry> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), tasks.to_string()).unwrap();
        let source = LabelStudioSource::open(file.path(), Box::new(Shelf)).unwrap();
        assert_eq!(source.entry_count(), Some(tasks.as_array().unwrap().len() as u64));
        source.map(Result::unwrap).collect()
    }

    fn annotation(id: i64, class: &str, at: &str) -> Value {
        json!({"id": id, "updated_at": at, "was_cancelled": false,
            "result": [{"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": [class]}}]})
    }

    #[test]
    fn the_recorded_export_gives_its_image_and_class() {
        let exported: Value =
            serde_json::from_str(include_str!("../../tests/label_studio/samples/resp_export_JSON.json"))
                .unwrap();
        let entries = entries(&exported);
        assert_eq!((entries.len(), entries[0].name.as_str()), (1, "9.png"));
        assert_eq!(entries[0].class, Some(SourceClass::Name("dog".to_owned())));
        let bytes = b"http://127.0.0.1:1/9.png 3".to_vec();
        assert_eq!(entries[0].payload, Ok(EntryPayload::File(bytes)));
    }

    #[test]
    fn the_most_frequent_answer_counts_then_the_newest_and_a_skip_none() {
        let early = "2026-11-24T18:37:19Z";
        let late = "2026-11-25T18:37:19Z";
        let skip = json!({"id": 9, "was_cancelled": true, "result": []});
        let task = |annotations: Value| json!({"data": {"image": "/data/local-files/?d=pile/1.png"}, "annotations": annotations});
        let tasks = json!([
            task(json!([
                annotation(1, "cat", late),
                annotation(2, "dog", early),
                annotation(3, "dog", early)
            ])),
            task(json!([annotation(1, "cat", late), annotation(2, "dog", early)])),
            task(json!([skip])),
            task(json!([])),
        ]);
        let entries = entries(&tasks);
        let classes: Vec<_> = entries.iter().map(|entry| entry.class.clone()).collect();
        let named = |name: &str| Some(SourceClass::Name(name.to_owned()));
        assert_eq!(classes, [named("dog"), named("cat"), None, None]);
        assert_eq!(entries[0].name, "pile/1.png");
    }

    #[test]
    fn a_task_without_an_image_is_rejected_and_the_rest_goes_on() {
        let tasks = json!([
            {"data": {"text": "hello"}},
            {"data": {"image": "http://127.0.0.1:1/away.png"}},
            {"data": {"image": "http://127.0.0.1:1/../x.png"}},
            {"data": {"photo": "s3://bucket/1.png", "note": 3}},
        ]);
        let entries = entries(&tasks);
        assert!(entries[0].payload.as_ref().unwrap_err().contains("names no image"));
        assert_eq!(entries[1].payload, Err("no answer".to_owned()));
        assert!(entries[2].payload.as_ref().unwrap_err().contains("leads out"));
        assert!(entries[3].payload.is_ok());
    }

    #[test]
    fn what_is_no_list_of_tasks_says_so() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), r#"{"image": "1.png"}"#).unwrap();
        let error = LabelStudioSource::open(file.path(), Box::new(Shelf)).map(drop).unwrap_err().to_string();
        assert!(error.contains("no list of Label Studio tasks"), "{error}");
    }
}
