//! What `gleaner export` writes of a finished project: every task and prediction once, and the labelled images in the folders of their classes.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::server::Place;

/// The exports of one project.
pub struct Exports {
    /// Names of the items in the export of tasks that were settled.
    pub settled: Vec<String>,
    /// Names of the items in the export of predictions.
    pub predicted: Vec<String>,
    /// Classes of the folders, with the number of images in each.
    pub folders: Vec<(String, usize)>,
    /// First and last four bytes of the tasks as Parquet.
    pub parquet_marks: [Vec<u8>; 2],
}

impl Exports {
    /// Lets the binary write everything below `folder`.
    pub fn write(place: &Place<'_>, project: &str, folder: &Path) -> Self {
        let export = |what: &str, format: &str| {
            let target = folder.join(format!("{what}.{format}"));
            let status = Command::new(env!("CARGO_BIN_EXE_gleaner"))
                .args(["export", project, "--what", what, "--format", format, "--out"])
                .arg(&target)
                .env("DATABASE_URL", place.database_url)
                .env("GLEANER_HOME", place.home)
                .env("GLEANER_THREADS", "2")
                .env("GLEANER_LOG", "warn")
                .status()
                .expect("the binary starts");
            assert!(status.success(), "export of {what} as {format}: {status}");
            target
        };
        let parquet = std::fs::read(export("tasks", "parquet")).expect("the tasks");
        let (head, tail) = (parquet[..4].to_vec(), parquet[parquet.len() - 4..].to_vec());
        Self {
            settled: names(&export("tasks", "jsonl"), |row| {
                row["state"] == "settled" && row["class"].is_string()
            }),
            predicted: names(&export("predictions", "jsonl"), |row| row["probability"].as_f64() > Some(0.0)),
            folders: count_images(&export("labels", "folder")),
            parquet_marks: [head, tail],
        }
    }

    /// Fails unless every pool item is either settled or predicted, once.
    pub fn check(&self, pool_count: usize) {
        let all: HashSet<_> = self.settled.iter().chain(&self.predicted).collect();
        assert_eq!((all.len(), self.settled.len() + self.predicted.len()), (pool_count, pool_count));
        let image_count: usize = self.folders.iter().map(|(_, count)| count).sum();
        assert_eq!(image_count, self.settled.len(), "{:?}", self.folders);
        assert!(self.folders.iter().any(|(class, _)| class == "T-shirt%2Ftop"), "{:?}", self.folders);
        assert_eq!(self.parquet_marks, [b"PAR1", b"PAR1"]);
    }
}

fn names(path: &PathBuf, is_wanted: impl Fn(&Value) -> bool) -> Vec<String> {
    let text = std::fs::read_to_string(path).expect("the export");
    let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a JSON line"));
    rows.filter(is_wanted).map(|row| row["name"].as_str().expect("a name").to_owned()).collect()
}

fn count_images(folder: &PathBuf) -> Vec<(String, usize)> {
    let classes =
        std::fs::read_dir(folder).expect("the folder of classes").map(|class| class.expect("a class"));
    let count = |class: std::fs::DirEntry| {
        let images = std::fs::read_dir(class.path()).expect("a class folder").count();
        (class.file_name().to_string_lossy().into_owned(), images)
    };
    classes.map(count).collect()
}
