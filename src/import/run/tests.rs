//! Whole imports into a sink that keeps everything in memory.

use std::io::{Cursor, Write};
use std::path::Path;

use image::{DynamicImage, ImageFormat, Luma, Rgb, RgbImage};
use proptest::prelude::{any, prop};
use proptest::proptest;

use super::*;
use crate::domain::import::ImportFormat;
use crate::import::open;
use crate::vision::{DecodeLimits, SegmentTensor, decode};

/// Keeps every row with its packed pixels and its original.
#[derive(Default)]
struct Kept {
    rows: Vec<(PreparedRow, Vec<u8>, Vec<u8>)>,
    rejected: Vec<Rejection>,
    read_counts: Vec<u64>,
    last_progress: (u64, Option<u64>),
    stop_after: Option<(u64, StopFlag)>,
    fail: bool,
    shape: ImageShape,
}

impl Sink for Kept {
    fn commit(&mut self, segment: PreparedSegment) -> Result<Committed, SinkError> {
        if self.fail {
            return Err("the database is gone".into());
        }
        if let Some(files) = &segment.files {
            let tensor = SegmentTensor::open(&files.tensor_path, self.shape, segment.rows.len())?;
            let pack = fs::read(&files.pack_path)?;
            for (at, row) in segment.rows.iter().enumerate() {
                let original = &pack[row.pack_offset as usize..][..row.pack_length as usize];
                self.rows.push((row.clone(), tensor.row(at).to_vec(), original.to_vec()));
            }
        } else {
            assert_eq!(segment.rows, []);
        }
        self.rejected.extend(segment.rejected);
        self.read_counts.push(segment.read_count_after);
        Ok(Committed { added_count: segment.rows.len() as u64, ..Committed::default() })
    }

    fn progress(&mut self, read_count: u64, entry_count: Option<u64>) {
        self.last_progress = (read_count, entry_count);
        if let Some((limit, stop)) = &self.stop_after
            && read_count >= *limit
        {
            stop.stop();
        }
    }
}

fn options(scratch: &Path) -> Options {
    Options {
        shape: ImageShape { size: 8, channels: 3 },
        split: SplitRule::Auto,
        labels: LabelRule::Keep,
        classes: ["cat", "dog/wolf"].map(str::to_owned).to_vec(),
        skip_count: 0,
        scratch_dir: scratch.to_owned(),
    }
}

fn sink(options: &Options) -> Kept {
    Kept { shape: options.shape, ..Kept::default() }
}

fn import(path: &Path, options: &Options, sink: &mut Kept) -> Result<Report, ImportError> {
    run(open(path, ImportFormat::Auto).unwrap(), options, sink, &StopFlag::default())
}

fn png(value: u8) -> Vec<u8> {
    let mut bytes = Cursor::new(vec![]);
    DynamicImage::ImageRgb8(RgbImage::from_pixel(8, 8, Rgb([value; 3])))
        .write_to(&mut bytes, ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

fn write(folder: &Path, name: &str, bytes: &[u8]) {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn mixed_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let grey = DynamicImage::ImageLuma8(image::GrayImage::from_pixel(8, 8, Luma([77])));
    let mut grey_png = Cursor::new(vec![]);
    grey.write_to(&mut grey_png, ImageFormat::Png).unwrap();
    for (name, bytes) in [
        ("train/cat/1.png", png(1)),
        ("train/cat/2-again.png", png(1)),
        ("train/cat/3-grey.png", grey_png.into_inner()),
        ("train/dog%2Fwolf/1.png", png(2)),
        ("train/dog%2Fwolf/2-empty.png", vec![]),
        ("train/dog%2Fwolf/3-cut.png", png(3)[..40].to_vec()),
        ("train/dog%2Fwolf/4.txt", b"no image".to_vec()),
        ("train/fox/1.png", png(4)),
        ("test/cat/1.png", png(5)),
        ("test/loose.png", png(6)),
    ] {
        write(folder.path(), name, &bytes);
    }
    folder
}

#[test]
fn good_images_are_packed_and_every_bad_one_is_listed_with_its_reason() {
    let (folder, scratch) = (mixed_folder(), tempfile::tempdir().unwrap());
    let options = options(scratch.path());
    let mut sink = sink(&options);
    let report = import(folder.path(), &options, &mut sink).unwrap();
    let expected =
        Report { read_count: 10, added_count: 4, duplicate_count: 1, rejected_count: 5, converted_count: 1 };
    assert_eq!(report, expected);
    let rows: Vec<_> = sink.rows.iter().map(|(row, ..)| (row.name.as_str(), row.split, row.class)).collect();
    let (cat, dog) = (Some(ClassIndex(0)), Some(ClassIndex(1)));
    assert_eq!(
        rows,
        [
            ("test/cat/1.png", Split::Test, cat),
            ("train/cat/1.png", Split::Pool, cat),
            ("train/cat/3-grey.png", Split::Pool, cat),
            ("train/dog%2Fwolf/1.png", Split::Pool, dog),
        ]
    );
    let (row, pixels, original) = &sink.rows[2];
    assert_eq!(row.converted.as_deref(), Some("converted from grey to RGB"));
    assert_eq!((pixels.as_slice(), row.channels, row.media_type), (&[77; 192][..], 1, "image/png"));
    assert_eq!(row.hash, ContentHash::of_file(original));
    let rejected: Vec<_> =
        sink.rejected.iter().map(|rejection| (rejection.name.as_str(), rejection.reason.as_str())).collect();
    assert_eq!(
        rejected,
        [
            ("test/loose.png", "an image of the test split needs a class, and the source gives none"),
            ("train/dog%2Fwolf/2-empty.png", "the file is empty (0 bytes)"),
            ("train/dog%2Fwolf/3-cut.png", "the PNG file is truncated: it ends before the image does"),
            ("train/dog%2Fwolf/4.txt", "not an image in a supported format (JPEG, PNG, GIF, BMP or WebP)"),
            ("train/fox/1.png", "'fox' is no class of the project; add it, or import without labels"),
        ]
    );
    assert_eq!(sink.last_progress, (10, Some(10)));
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0, "the scratch folder is left clean");
}

#[test]
fn hidden_labels_are_not_even_looked_at_but_test_items_keep_theirs() {
    let (folder, scratch) = (mixed_folder(), tempfile::tempdir().unwrap());
    let options = Options { labels: LabelRule::Hide, ..options(scratch.path()) };
    let mut sink = sink(&options);
    import(folder.path(), &options, &mut sink).unwrap();
    let classes: Vec<_> = sink.rows.iter().map(|(row, ..)| (row.name.as_str(), row.class)).collect();
    assert!(
        classes.contains(&("train/fox/1.png", None))
            && classes.contains(&("test/cat/1.png", Some(ClassIndex(0))))
    );
}

#[test]
fn the_split_rule_takes_its_part_and_leaves_out_the_rest_in_silence() {
    let (folder, scratch) = (mixed_folder(), tempfile::tempdir().unwrap());
    let options = Options { split: SplitRule::Test, ..options(scratch.path()) };
    let mut sink = sink(&options);
    let report = import(folder.path(), &options, &mut sink).unwrap();
    assert_eq!((report.read_count, report.added_count, report.rejected_count), (10, 1, 1));
}

#[test]
fn a_zip_and_a_tar_of_a_folder_import_like_the_folder() {
    let (folder, scratch) = (mixed_folder(), tempfile::tempdir().unwrap());
    let options = options(scratch.path());
    let imported = |path: &Path| {
        let mut sink = sink(&options);
        let report = import(path, &options, &mut sink).unwrap();
        sink.rows.sort_by_key(|(row, ..)| row.hash);
        // Archives have their own order, so another of two equal images may come first.
        let rows: Vec<_> =
            sink.rows.iter().map(|(row, pixels, _)| (row.hash, row.class, pixels.clone())).collect();
        (report, rows)
    };
    let expected = imported(folder.path());

    let archives = tempfile::tempdir().unwrap();
    let tar_path = archives.path().join("pile.tar");
    let mut tar = tar::Builder::new(fs::File::create(&tar_path).unwrap());
    tar.append_dir_all("pile", folder.path()).unwrap();
    tar.finish().unwrap();
    assert_eq!(imported(&tar_path), expected);

    let zip_path = archives.path().join("pile.zip");
    let mut zip = zip::ZipWriter::new(fs::File::create(&zip_path).unwrap());
    for entry in open(folder.path(), ImportFormat::Folder).unwrap() {
        let entry = entry.unwrap();
        zip.start_file(format!("pile/{}", entry.name), zip::write::SimpleFileOptions::default()).unwrap();
        let Ok(EntryPayload::File(bytes)) = entry.payload else { panic!("{}", entry.name) };
        zip.write_all(&bytes).unwrap();
    }
    zip.finish().unwrap();
    assert_eq!(imported(&zip_path), expected);
}

/// 6,000 different images of raw pixels, more than one segment holds.
fn raw_images(folder: &Path) {
    let header = |words: &[u32]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>();
    let pixels = (0..6000u32).flat_map(|item| (0..64).map(move |at| (item >> (at % 4 * 4)) as u8));
    let images: Vec<_> = header(&[0x803, 6000, 8, 8]).into_iter().chain(pixels).collect();
    let labels: Vec<_> =
        header(&[0x801, 6000]).into_iter().chain((0..6000u32).map(|item| (item % 3) as u8)).collect();
    write(folder, "train-images-idx3-ubyte", &images);
    write(folder, "train-labels-idx1-ubyte", &labels);
}

#[test]
fn raw_pixels_are_kept_as_png_and_numbers_beyond_the_classes_are_rejected() {
    let (folder, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    raw_images(folder.path());
    let options = Options { shape: ImageShape { size: 8, channels: 1 }, ..options(scratch.path()) };
    let mut sink = sink(&options);
    let report = import(folder.path(), &options, &mut sink).unwrap();
    assert_eq!((report.read_count, report.added_count, report.rejected_count), (6000, 4000, 2000));
    assert_eq!(sink.rejected[0].name, "train/00002");
    assert_eq!(sink.rejected[0].reason, "class number 2 has no name: the project has 2 classes");
    let (row, pixels, original) = &sink.rows[1];
    assert_eq!((row.name.as_str(), row.class), ("train/00001", Some(ClassIndex(1))));
    assert_eq!(&decode(original, &DecodeLimits::default()).unwrap().pixels, pixels);
    assert_eq!(row.hash, ContentHash::of_pixels(8, 8, 1, pixels));
}

#[test]
fn a_source_that_names_its_numbers_is_taken_by_the_names_and_unknown_ones_are_rejected() {
    let (folder, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // CIFAR records of classes 0 to 3; the source names three, the project has two of them in another order.
    let records = (0..4u8).flat_map(|class| [vec![class], vec![class; 3072]].concat()).collect::<Vec<_>>();
    write(folder.path(), "data_batch_1.bin", &records);
    write(folder.path(), "batches.meta.txt", b"dog/wolf\nfox\ncat\n");
    let options = options(scratch.path());
    let mut sink = sink(&options);
    import(folder.path(), &options, &mut sink).unwrap();
    let classes: Vec<_> = sink.rows.iter().map(|(row, ..)| (row.name.as_str(), row.class)).collect();
    let (cat, dog) = (Some(ClassIndex(0)), Some(ClassIndex(1)));
    assert_eq!(classes, [("data_batch_1/00000", dog), ("data_batch_1/00002", cat)]);
    let reasons: Vec<_> = sink.rejected.iter().map(|rejection| rejection.reason.as_str()).collect();
    assert_eq!(
        reasons,
        [
            "'fox' is no class of the project; add it, or import without labels",
            "class number 3 has no name: the source names 3 classes",
        ]
    );
}

/// What a newcomer's disk holds: folders in folders, capital extensions, what systems leave behind, links, names of any alphabet.
fn newcomers_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut archive = zip::ZipWriter::new(Cursor::new(vec![]));
    archive.start_file("cat/9.png", zip::write::SimpleFileOptions::default()).unwrap();
    archive.write_all(&png(9)).unwrap();
    for (name, bytes) in [
        ("pile/cat/1.PNG", png(1)),
        ("pile/cat/outdoors/2024/2.Png", png(2)),
        ("pile/cat/no-extension", png(3)),
        ("pile/cat/really-a-png.jpg", png(4)),
        ("pile/cat/.hidden.png", png(5)),
        ("pile/cat/.DS_Store", b"x".to_vec()),
        ("pile/cat/Thumbs.db", b"x".to_vec()),
        ("pile/cat/more.zip", archive.finish().unwrap().into_inner()),
        // A Mac's é: an e and an accent.
        ("pile/cafe\u{301}/\u{732b}.png", png(6)),
        ("pile/README.txt", b"about this pile".to_vec()),
        ("pile/.git/objects/1.png", png(7)),
        ("__MACOSX/pile/cat/._1.PNG", b"x".to_vec()),
    ] {
        write(folder.path(), name, &bytes);
    }
    std::os::unix::fs::symlink("1.PNG", folder.path().join("pile/cat/link.png")).unwrap();
    folder
}

#[test]
fn what_a_newcomers_disk_holds_is_read_or_named() {
    let (folder, scratch) = (newcomers_folder(), tempfile::tempdir().unwrap());
    let options =
        Options { classes: ["cat", "caf\u{e9}"].map(str::to_owned).to_vec(), ..options(scratch.path()) };
    let mut kept = sink(&options);
    import(folder.path(), &options, &mut kept).unwrap();
    let (cat, cafe) = (Some(ClassIndex(0)), Some(ClassIndex(1)));
    let rows: Vec<_> = kept.rows.iter().map(|(row, ..)| (row.name.as_str(), row.class)).collect();
    assert_eq!(
        rows,
        [
            ("pile/cafe\u{301}/\u{732b}.png", cafe),
            ("pile/cat/1.PNG", cat),
            ("pile/cat/no-extension", cat),
            ("pile/cat/outdoors/2024/2.Png", cat),
            ("pile/cat/really-a-png.jpg", cat),
        ]
    );
    let rejected: Vec<_> =
        kept.rejected.iter().map(|rejection| (rejection.name.as_str(), rejection.reason.as_str())).collect();
    assert_eq!(
        rejected,
        [
            ("pile/README.txt", "not an image in a supported format (JPEG, PNG, GIF, BMP or WebP)"),
            ("pile/cat/link.png", "a symbolic link; links are not followed"),
            (
                "pile/cat/more.zip",
                "an archive inside the source isn't opened; unpack it or import it by itself"
            ),
        ]
    );
}

#[test]
fn a_source_without_files_says_so() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), ".hidden.png", &png(1));
    let error = open(folder.path(), ImportFormat::Auto).err().unwrap().to_string();
    assert!(error.contains("holds no files; hidden files"), "{error}");
}

#[test]
fn an_import_that_is_stopped_goes_on_where_it_was_committed() {
    let (folder, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    raw_images(folder.path());
    let options = Options { labels: LabelRule::Hide, ..options(scratch.path()) };
    let mut whole = sink(&options);
    import(folder.path(), &options, &mut whole).unwrap();

    let stop = StopFlag::default();
    let mut first = Kept { stop_after: Some((5000, stop.clone())), ..sink(&options) };
    let outcome = run(open(folder.path(), ImportFormat::Auto).unwrap(), &options, &mut first, &stop);
    assert!(matches!(outcome, Err(ImportError::Stopped { read_count: 5000.. })), "{outcome:?}");
    assert_eq!(first.read_counts, [4096]);
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0, "the unfinished segment is gone");

    let mut second = sink(&options);
    let report =
        import(folder.path(), &Options { skip_count: 4096, ..options.clone() }, &mut second).unwrap();
    assert_eq!((report.read_count, report.added_count), (6000, 6000 - 4096));
    let names = |sinks: &[&Kept]| -> Vec<String> {
        sinks.iter().flat_map(|sink| &sink.rows).map(|(row, ..)| row.name.clone()).collect()
    };
    assert_eq!(names(&[&first, &second]), names(&[&whole]));
}

#[test]
fn what_came_before_a_broken_tail_is_committed_and_a_failing_sink_ends_it() {
    let (folder, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    raw_images(folder.path());
    let images = folder.path().join("train-images-idx3-ubyte");
    let bytes = fs::read(&images).unwrap();
    fs::write(&images, &bytes[..16 + 64 * 4500 + 5]).unwrap();
    let options = Options { labels: LabelRule::Hide, ..options(scratch.path()) };
    let mut kept = sink(&options);
    let error = import(folder.path(), &options, &mut kept).unwrap_err();
    assert!(error.to_string().contains("broken after 4500 entries, which were read"), "{error}");
    assert_eq!(kept.read_counts, [4096, 4500]);

    let mut failing = Kept { fail: true, ..sink(&options) };
    let error = import(folder.path(), &options, &mut failing).unwrap_err();
    assert_eq!(error.to_string(), "a packed segment can't be stored: the database is gone");
}

#[test]
fn a_source_of_nothing_but_rejects_is_still_reported() {
    let (folder, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(folder.path(), "a.png", b"");
    let options = options(scratch.path());
    let mut kept = sink(&options);
    assert_eq!(import(folder.path(), &options, &mut kept).unwrap().rejected_count, 1);
    assert_eq!((kept.read_counts, kept.rejected.len()), (vec![1], 1));
}

#[test]
fn images_of_one_class_alone_have_it_if_the_project_does() {
    for (folder_name, class) in [("cat", Some(ClassIndex(0))), ("pile", None)] {
        let (folder, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(folder.path(), &format!("{folder_name}/1.png"), &png(1));
        let options = options(scratch.path());
        let mut kept = sink(&options);
        import(folder.path(), &options, &mut kept).unwrap();
        assert_eq!(kept.rows[0].0.class, class);
    }
}

#[test]
fn the_whole_fashion_mnist_is_packed_within_a_minute() {
    let scratch = tempfile::tempdir().unwrap();
    let options = Options {
        shape: ImageShape { size: 28, channels: 1 },
        classes: (0..10).map(|class| class.to_string()).collect(),
        ..options(scratch.path())
    };
    let mut kept = sink(&options);
    let started = std::time::Instant::now();
    let report = import(Path::new("/usr/share/datasets/fashion-mnist"), &options, &mut kept).unwrap();
    let seconds = started.elapsed().as_secs_f64();
    let expected = Report { read_count: 70_000, added_count: 70_000, ..Report::default() };
    assert_eq!(report, expected);
    assert_eq!(kept.last_progress, (70_000, Some(70_000)));
    assert!(seconds < 60.0, "{seconds}");
}

/// Everything a reader may do with hostile bytes, short of panicking.
fn read_all(name: &str, bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, bytes).unwrap();
    for format in
        [ImportFormat::Auto, ImportFormat::Zip, ImportFormat::Tar, ImportFormat::Idx, ImportFormat::Cifar]
    {
        for target in [&path, folder.path()] {
            if let Ok(source) = open(target, format) {
                source.take(1000).for_each(drop);
            }
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_never_panic_a_reader(
        magic in prop::sample::select(vec![
            &b""[..], b"PK\x03\x04", b"PK\x05\x06", b"\x1f\x8b\x08\0", b"\0\0\x08\x03\0\0\0\x09\0\0\0\x02\0\0\0\x02", b"\0\0\x08\x01",
        ]),
        name in prop::sample::select(vec!["x", "train-images-idx3-ubyte", "data_batch_1.bin", "a.zip"]),
        rest in prop::collection::vec(any::<u8>(), 0..1500),
    ) {
        read_all(name, &[magic, &rest].concat());
    }

    #[test]
    fn damaged_archives_never_panic_a_reader(
        zipped in any::<bool>(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..10),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = if zipped {
            let mut zip = zip::ZipWriter::new(Cursor::new(vec![]));
            for name in ["train/a/1.png", "test/b/2.png"] {
                zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
                zip.write_all(&png(9)).unwrap();
            }
            zip.finish().unwrap().into_inner()
        } else {
            let mut tar = tar::Builder::new(vec![]);
            for name in ["train/a/1.png".to_owned(), format!("test/b/{}.png", "y".repeat(150))] {
                let mut header = tar::Header::new_gnu();
                header.set_size(png(9).len() as u64);
                tar.append_data(&mut header, name, &png(9)[..]).unwrap();
            }
            tar.into_inner().unwrap()
        };
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let kept = bytes.len() - cut.index(bytes.len()) / 4;
        read_all("archive", &bytes[..kept]);
    }
}
