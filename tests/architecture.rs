//! Holds the house of docs/ARCHITECTURE.md: which room may import which, where foreign crates may appear, and that every module says
//! what it owns. It reads the sources as text, so a new import in the wrong direction fails here by name.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Each room with the rooms it may import; a room not listed here doesn't exist.
const ROOMS: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("config", &[]),
    ("telemetry", &[]),
    ("vision", &["domain"]),
    ("nn", &["domain", "vision"]),
    ("pretext", &["domain", "vision", "nn"]),
    ("acquisition", &["domain"]),
    ("learner", &["domain", "vision", "nn", "pretext", "acquisition"]),
    ("engine", &["domain", "config", "telemetry", "vision", "nn", "pretext", "acquisition", "learner"]),
    ("store", &["domain", "config", "telemetry"]),
    ("blob", &["domain", "config", "telemetry"]),
    ("outbound", &["domain", "config", "telemetry"]),
    ("access", &["domain", "config", "telemetry", "store"]),
    ("events", &["domain", "config", "telemetry", "store"]),
    ("webhooks", &["domain", "config", "telemetry", "store", "outbound", "access", "events"]),
    ("import", &["domain", "vision"]),
    ("labeling", &["domain", "telemetry", "store", "events"]),
    ("rounds", &["domain", "config", "telemetry", "store", "events", "labeling"]),
    (
        "label_studio",
        &["domain", "telemetry", "learner", "store", "blob", "access", "events", "labeling", "rounds"],
    ),
    (
        "worker",
        &[
            "domain",
            "config",
            "telemetry",
            "vision",
            "nn",
            "acquisition",
            "learner",
            "engine",
            "store",
            "blob",
            "outbound",
            "events",
            "import",
            "rounds",
            "label_studio",
        ],
    ),
    ("export", &[]),
    ("figures", &["domain"]),
    ("simulate", &["domain", "vision", "nn", "acquisition", "learner", "import", "figures"]),
    (
        "http",
        &[
            "domain",
            "config",
            "telemetry",
            "vision",
            "engine",
            "store",
            "blob",
            "outbound",
            "access",
            "events",
            "webhooks",
            "import",
            "labeling",
            "rounds",
            "label_studio",
            "export",
            "figures",
        ],
    ),
    (
        "commands",
        &[
            "domain",
            "config",
            "telemetry",
            "vision",
            "nn",
            "engine",
            "store",
            "blob",
            "outbound",
            "access",
            "events",
            "webhooks",
            "import",
            "labeling",
            "rounds",
            "label_studio",
            "worker",
            "figures",
            "simulate",
            "export",
            "http",
        ],
    ),
];

/// Each foreign crate that has a place, with the rooms that may name it.
const FOREIGN: &[(&str, &[&str])] = &[
    ("candle_core", &["vision", "nn", "pretext", "learner", "engine"]),
    ("candle_nn", &["vision", "nn", "pretext", "learner", "engine"]),
    ("sqlx", &["store"]),
    ("axum", &["http"]),
    ("utoipa_axum", &["http"]),
    ("tower_http", &["http"]),
    ("object_store", &["blob"]),
    ("reqwest", &["outbound"]),
    ("plotters", &["figures"]),
    ("parquet", &["export"]),
    ("clap", &["domain", "config", "simulate", "commands"]),
    ("indicatif", &["commands"]),
    (
        "tokio",
        &[
            "engine",
            "store",
            "blob",
            "outbound",
            "access",
            "events",
            "webhooks",
            "labeling",
            "rounds",
            "label_studio",
            "worker",
            "http",
            "commands",
        ],
    ),
];

struct Source {
    path: PathBuf,
    room: String,
    text: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("src can be read") {
            let path = entry.expect("an entry of src").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
        .into_iter()
        .map(|path| {
            let inside = path.strip_prefix(&root).expect("below src");
            let first = inside.components().next().expect("a file name").as_os_str().to_string_lossy();
            let room = first.trim_end_matches(".rs").to_owned();
            let text = fs::read_to_string(&path).expect("source is UTF-8");
            Source { path: inside.to_owned(), room, text }
        })
        .collect()
}

/// Whether a file is a module that its parent declares for tests alone, such as `rounds/tests.rs`, or lies within one.
fn is_test_module(sources: &[Source], path: &Path) -> bool {
    let (Some(folder), Some(name)) = (path.parent(), path.file_stem()) else {
        return false;
    };
    let declaration = format!("mod {};", name.to_string_lossy());
    let parent = folder.with_extension("rs");
    let lies_within = sources.iter().any(|source| source.path == parent) && is_test_module(sources, &parent);
    lies_within
        || sources
            .iter()
            .filter(|source| source.path == folder.with_extension("rs"))
            .flat_map(|parent| parent.text.split("#[cfg(test)]\n").skip(1))
            .filter_map(|after| after.lines().next())
            .any(|line| line.trim_start_matches("pub(crate) ") == declaration)
}

/// The files of the product, without modules of tests.
fn production_sources() -> Vec<Source> {
    let all = sources();
    let is_test: Vec<bool> = all.iter().map(|source| is_test_module(&all, &source.path)).collect();
    all.into_iter().zip(is_test).filter_map(|(source, is_test)| (!is_test).then_some(source)).collect()
}

/// The production part of a file: what stands before its test module, without comments.
fn production(text: &str) -> String {
    let body = text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text);
    body.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Every identifier that directly follows `prefix` in `text`, or stands in the braces that follow it.
fn named_after(text: &str, prefix: &str) -> Vec<String> {
    let identifier =
        |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut names = Vec::new();
    for (position, _) in text.match_indices(prefix) {
        let rest = &text[position + prefix.len()..];
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut at_start = true;
            for (index, c) in group.char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => at_start = true,
                    c if at_start && depth == 0 && !c.is_whitespace() => {
                        names.push(identifier(&group[index..]));
                        at_start = false;
                    }
                    _ => {}
                }
            }
        } else {
            names.push(identifier(rest));
        }
    }
    names
}

#[test]
fn no_room_imports_one_that_it_may_not() {
    let table: BTreeMap<&str, &[&str]> = ROOMS.iter().copied().collect();
    let mut wrong = Vec::new();
    for source in production_sources().iter().filter(|source| !matches!(source.room.as_str(), "lib" | "main"))
    {
        let Some(allowed) = table.get(source.room.as_str()) else {
            wrong.push(format!("{}: the room '{}' isn't in the table", source.path.display(), source.room));
            continue;
        };
        for name in named_after(&production(&source.text), "crate::") {
            if table.contains_key(name.as_str()) && name != source.room && !allowed.contains(&name.as_str()) {
                wrong.push(format!("{}: '{}' may not import '{name}'", source.path.display(), source.room));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_room_stands_above_the_rooms_it_imports() {
    for (index, (room, allowed)) in ROOMS.iter().enumerate() {
        for lower in *allowed {
            let position = ROOMS.iter().position(|(name, _)| name == lower);
            assert!(
                position.is_some_and(|p| p < index),
                "'{room}' lists '{lower}', which doesn't stand below it"
            );
        }
    }
}

#[test]
fn foreign_crates_stay_in_their_rooms() {
    let mut wrong = Vec::new();
    for source in production_sources().iter().filter(|source| !matches!(source.room.as_str(), "lib" | "main"))
    {
        let text = production(&source.text);
        for (foreign, rooms) in FOREIGN {
            let names_it = text.match_indices(&format!("{foreign}::")).any(|(position, _)| {
                !text[..position].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
            });
            if names_it && !rooms.contains(&source.room.as_str()) {
                wrong.push(format!("{}: '{}' may not use {foreign}", source.path.display(), source.room));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_stands_only_in_the_kernels_and_the_memory_map() {
    for source in production_sources() {
        let text = production(&source.text);
        let has_unsafe =
            text.contains("unsafe {") || text.contains("unsafe fn") || text.contains("unsafe impl");
        let allowed = source.path.starts_with("nn/ops") || source.path.starts_with("vision");
        assert!(!has_unsafe || allowed, "{} holds unsafe code", source.path.display());
    }
}

#[test]
fn every_module_says_what_it_owns() {
    let silent: Vec<_> = sources()
        .iter()
        .filter(|source| !source.text.starts_with("//!"))
        .map(|source| source.path.display().to_string())
        .collect();
    assert!(silent.is_empty(), "modules without a header: {}", silent.join(", "));
}
