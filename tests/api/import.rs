//! `gleaner import` as a person runs it: the binary on a folder of images.

use std::path::Path;
use std::process::Stdio;

use image::{DynamicImage, GrayImage, Luma};
use serde_json::json;
use tokio::process::Command;

use crate::app::{App, spawn_app, write_file};

/// Runs the command to its end; gives whether it succeeded, and what it said.
async fn import(app: &App, project: &str, source: &Path, more: &[&str]) -> (bool, String) {
    let home = tempfile::tempdir().expect("a scratch folder");
    let output = Command::new(env!("CARGO_BIN_EXE_gleaner"))
        .args(["import", project])
        .arg(source)
        .args(more)
        .env("DATABASE_URL", app.database.url())
        .env("GLEANER_HOME", home.path())
        .current_dir(home.path())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .expect("the binary runs");
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), text)
}

fn write_images(folder: &Path) {
    let grey = DynamicImage::ImageLuma8(GrayImage::from_pixel(8, 8, Luma([80])));
    std::fs::create_dir_all(folder.join("bag")).expect("a folder");
    grey.save(folder.join("bag/1.png")).expect("an image");
    grey.save(folder.join("bag/twin.png")).expect("an image");
    grey.brighten(9).to_rgb8().save(folder.join("bag/2.PNG")).expect("an image");
    write_file(folder, "coat/broken.png", b"no image");
    write_file(folder, "spaceship/3.png", &std::fs::read(folder.join("bag/1.png")).expect("an image"));
}

#[tokio::test]
async fn a_folder_is_imported_and_the_report_names_what_was_not_taken_and_counts_what_was_converted() {
    let app = spawn_app().await;
    app.create_project("p").await;
    let images = app.import_root.join("images");
    write_images(&images);
    let (done, text) = import(&app, "p", &images, &["--labels", "keep"]).await;
    assert!(done, "{text}");
    for line in [
        "rejected coat/broken.png: not an image in a supported format",
        "rejected spaceship/3.png: 'spaceship' is no class of the project; add it, or import without labels",
        "5 read, 2 added (1 of them converted to the project's channels), 1 duplicates, 2 rejected",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let imports = app.get("/api/v1/projects/p/imports").await.expect(200);
    assert_eq!(imports["items"][0]["converted_count"], 1, "{imports}");
    let items = app.get("/api/v1/projects/p/items").await.expect(200);
    let names: Vec<_> = items["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| (item["name"].clone(), item["class"].clone()))
        .collect();
    assert_eq!(names, [(json!("bag/1.png"), json!("bag")), (json!("bag/2.PNG"), json!("bag"))]);
}

#[tokio::test]
async fn an_import_without_its_project_its_source_or_any_file_ends_with_words() {
    let app = spawn_app().await;
    app.create_project("p").await;
    let (done, text) = import(&app, "nobody", &app.import_root, &[]).await;
    assert!(!done && text.contains("nobody"), "{text}");
    let (done, text) = import(&app, "p", &app.import_root.join("nothing"), &[]).await;
    assert!(!done && text.contains("nothing can't be read"), "{text}");
    let (done, text) = import(&app, "p", &app.import_root, &[]).await;
    assert!(!done && text.contains("the import failed") && text.contains("it holds no files"), "{text}");
}
