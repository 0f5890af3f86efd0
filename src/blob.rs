//! Images, segments, checkpoints and score tables, as whole objects in an object store.
//!
//! `file://` is a folder (the default); `s3://` needs the feature `s3`. An object is written once, whole and durable before its
//! database row is committed, and never changed: a mapped file that shrinks would kill the process. A replaced object is a new file under
//! the old name, so a reader keeps what it opened. Keys come from `keys` alone. Async; disk work runs on tokio's blocking threads.

use std::ops::Range;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use futures_util::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uuid::Uuid;

mod error;
mod keys;

pub use error::BlobError;
pub use keys::{
    checkpoint_key, embedding_key, initial_weights_key, model_key, overview_key, pack_key, pretext_key,
    pretext_loss_key, project_prefix, score_key, tensor_key, upload_key,
};

/// Bytes of a file that are read and sent at once; S3 wants at least 5 MiB.
const PART_BYTES: usize = 8 << 20;

/// An object store: a cheap handle to clone.
#[derive(Clone, Debug)]
pub struct Blob {
    objects: Arc<dyn ObjectStore>,
    /// Stands before every key.
    prefix: Path,
    place: Place,
}

/// Where objects are when somebody wants a file.
#[derive(Clone, Debug)]
enum Place {
    /// They are files already.
    Folder(Arc<LocalFileSystem>),
    /// They are copied below this folder.
    #[cfg_attr(not(any(feature = "s3", test)), expect(dead_code, reason = "every store but S3 is a folder"))]
    Cached(Arc<FilePath>),
}

impl Blob {
    /// Opens the store at `url`: `file:///folder` (taken literally, made when missing) or `s3://bucket/prefix` (credentials from the `AWS_…`
    /// variables). Copies of remote objects go below `cache`.
    pub async fn open(url: &str, cache: &FilePath) -> Result<Self, BlobError> {
        match url.split_once("://") {
            Some(("file", folder)) if folder.starts_with('/') => {
                Self::open_folder(PathBuf::from(folder)).await
            }
            Some(("s3", _)) => open_s3(url, cache),
            _ => Err(BlobError::Address {
                url: url.to_owned(),
                reason: "use file:///folder or s3://bucket/prefix".to_owned(),
            }),
        }
    }

    async fn open_folder(folder: PathBuf) -> Result<Self, BlobError> {
        let shown = folder.display().to_string();
        let opened = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&folder)?;
            Ok::<_, std::io::Error>(
                LocalFileSystem::new_with_prefix(&folder).map_err(std::io::Error::from)?.with_fsync(true),
            )
        });
        let objects = match opened.await {
            Ok(opened) => opened.map_err(|error| BlobError::from_io("open", &shown, error))?,
            Err(error) => {
                return Err(BlobError::from_io("open", &shown, std::io::Error::other(error)));
            }
        };
        let objects = Arc::new(objects);
        Ok(Self { objects: objects.clone(), prefix: Path::default(), place: Place::Folder(objects) })
    }

    /// Writes an object; it is durable on return, and whole or absent at any instant.
    pub async fn put(&self, key: &str, bytes: Vec<u8>) -> Result<(), BlobError> {
        let stored = self.objects.put(&self.path(key), PutPayload::from(bytes)).await;
        stored.map(drop).map_err(|error| BlobError::from_store("write", key, error))
    }

    /// Writes an object from a file, which stays; memory is bounded whatever its size. Durable and atomic as `put`.
    pub async fn put_file(&self, key: &str, file: &FilePath) -> Result<(), BlobError> {
        let failed = |error| BlobError::from_store("write", key, error);
        let mut upload = self.objects.put_multipart(&self.path(key)).await.map_err(failed)?;
        let sent = send_parts(upload.as_mut(), key, file).await;
        match sent {
            Ok(()) => upload.complete().await.map(drop).map_err(failed),
            Err(error) => {
                // What was sent so far is of no use; a store that can't drop it now expires it.
                let _ = upload.abort().await;
                Err(error)
            }
        }
    }

    /// Reads a whole object.
    pub async fn get(&self, key: &str) -> Result<Vec<u8>, BlobError> {
        let failed = |error| BlobError::from_store("read", key, error);
        let object = self.objects.get(&self.path(key)).await.map_err(failed)?;
        Ok(object.bytes().await.map_err(failed)?.into())
    }

    /// Reads the bytes of an object in `range`.
    pub async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Vec<u8>, BlobError> {
        let read = self.objects.get_range(&self.path(key), range).await;
        Ok(read.map_err(|error| BlobError::from_store("read", key, error))?.into())
    }

    /// Whether an object is there.
    pub async fn exists(&self, key: &str) -> Result<bool, BlobError> {
        match self.objects.head(&self.path(key)).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(BlobError::from_store("look for", key, error)),
        }
    }

    /// Removes an object; one that isn't there counts as removed.
    pub async fn delete(&self, key: &str) -> Result<(), BlobError> {
        match self.objects.delete(&self.path(key)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(BlobError::from_store("remove", key, error)),
        }
    }

    /// Removes all objects whose keys begin with the folder `prefix`, and says how many.
    pub async fn delete_all(&self, prefix: &str) -> Result<u64, BlobError> {
        let failed = |error| BlobError::from_store("remove", prefix, error);
        let mut objects = self.objects.list(Some(&self.path(prefix)));
        let mut count = 0;
        while let Some(object) = objects.try_next().await.map_err(failed)? {
            match self.objects.delete(&object.location).await {
                Ok(()) => count += 1,
                // Somebody else removed it.
                Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(count)
    }

    /// A local file with the object's content, for memory mapping: the object itself in a folder, else a copy that is made once.
    pub async fn local_path(&self, key: &str) -> Result<PathBuf, BlobError> {
        match &self.place {
            Place::Folder(folder) => {
                if !self.exists(key).await? {
                    return Err(BlobError::Missing { key: key.to_owned() });
                }
                folder
                    .path_to_filesystem(&self.path(key))
                    .map_err(|error| BlobError::from_store("find", key, error))
            }
            Place::Cached(cache) => {
                let file = cache.join(key);
                // Objects never change, so a copy that is there is right.
                if !tokio::fs::try_exists(&file)
                    .await
                    .map_err(|error| BlobError::from_io("look for", key, error))?
                {
                    self.download(key, &file).await?;
                }
                Ok(file)
            }
        }
    }

    /// Copies an object under another name first, so that a file in the cache is whole; two that copy at once both rename the same content.
    async fn download(&self, key: &str, file: &FilePath) -> Result<(), BlobError> {
        let failed = |error| BlobError::from_io("copy", key, error);
        let folder = file.parent().unwrap_or(file);
        let draft = folder.join(format!(".{}.draft", Uuid::now_v7()));
        let copied = async {
            let object = self
                .objects
                .get(&self.path(key))
                .await
                .map_err(|error| BlobError::from_store("read", key, error))?;
            tokio::fs::create_dir_all(folder).await.map_err(failed)?;
            let mut copy = tokio::fs::File::create_new(&draft).await.map_err(failed)?;
            let mut parts = object.into_stream();
            while let Some(part) =
                parts.try_next().await.map_err(|error| BlobError::from_store("read", key, error))?
            {
                copy.write_all(&part).await.map_err(failed)?;
            }
            copy.flush().await.map_err(failed)?;
            tokio::fs::rename(&draft, file).await.map_err(failed)
        };
        let copied = copied.await;
        if copied.is_err() {
            // It may not even be there; the first error is the one that matters.
            let _ = tokio::fs::remove_file(&draft).await;
        }
        copied
    }

    fn path(&self, key: &str) -> Path {
        self.prefix.parts().chain(Path::from(key).parts()).collect()
    }
}

async fn send_parts(upload: &mut dyn MultipartUpload, key: &str, file: &FilePath) -> Result<(), BlobError> {
    let unreadable = |error| BlobError::from_io("read the file for", key, error);
    let mut source = tokio::fs::File::open(file).await.map_err(unreadable)?;
    loop {
        let mut part = Vec::with_capacity(PART_BYTES);
        (&mut source).take(PART_BYTES as u64).read_to_end(&mut part).await.map_err(unreadable)?;
        let is_last = part.len() < PART_BYTES;
        upload
            .put_part(PutPayload::from(part))
            .await
            .map_err(|error| BlobError::from_store("write", key, error))?;
        if is_last {
            return Ok(());
        }
    }
}

#[cfg(feature = "s3")]
fn open_s3(url: &str, cache: &FilePath) -> Result<Blob, BlobError> {
    let wrong = |reason: String| BlobError::Address { url: url.to_owned(), reason };
    // The HTTP client brings no TLS of its own; fails only when another part of the process chose one before, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = object_store::aws::AmazonS3Builder::from_env().with_url(url);
    let objects = builder.build().map_err(|error| wrong(error.to_string()))?;
    let within = url.trim_start_matches("s3://").split_once('/').map_or("", |(_, prefix)| prefix);
    Ok(Blob { objects: Arc::new(objects), prefix: Path::from(within), place: Place::Cached(cache.into()) })
}

#[cfg(not(feature = "s3"))]
fn open_s3(url: &str, _cache: &FilePath) -> Result<Blob, BlobError> {
    let reason =
        "this gleaner was built without S3; build it with `cargo build --features s3`, or use file:///folder";
    Err(BlobError::Address { url: url.to_owned(), reason: reason.to_owned() })
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;
    use tempfile::TempDir;

    use super::*;

    async fn folder() -> (TempDir, Blob) {
        let root = tempfile::tempdir().unwrap();
        let url = format!("file://{}/blobs", root.path().display());
        let blob = Blob::open(&url, &root.path().join("cache")).await.unwrap();
        (root, blob)
    }

    /// A store whose objects are no files, as a remote one's.
    fn remote(cache: &FilePath) -> Blob {
        Blob {
            objects: Arc::new(InMemory::new()),
            prefix: Path::from("a/prefix"),
            place: Place::Cached(cache.into()),
        }
    }

    async fn check_objects(blob: &Blob) {
        blob.put("projects/p/one", b"hello".to_vec()).await.unwrap();
        assert_eq!(blob.get("projects/p/one").await.unwrap(), b"hello");
        assert_eq!(blob.get_range("projects/p/one", 1..4).await.unwrap(), b"ell");
        assert!(blob.exists("projects/p/one").await.unwrap());
        assert!(!blob.exists("projects/p/two").await.unwrap());
        let missing = blob.get("projects/p/two").await.unwrap_err();
        assert!(matches!(&missing, BlobError::Missing { key } if key == "projects/p/two"), "{missing:?}");
        assert!(matches!(blob.local_path("projects/p/two").await, Err(BlobError::Missing { .. })));

        blob.put("projects/p/one", b"again".to_vec()).await.unwrap();
        blob.put("projects/p/deep/two", b"2".to_vec()).await.unwrap();
        blob.put("projects/pq/other", b"3".to_vec()).await.unwrap();
        assert_eq!(blob.get("projects/p/one").await.unwrap(), b"again");
        blob.delete("projects/p/one").await.unwrap();
        blob.delete("projects/p/one").await.unwrap();
        assert!(!blob.exists("projects/p/one").await.unwrap());
        blob.put("projects/p/one", b"more".to_vec()).await.unwrap();
        assert_eq!(blob.delete_all("projects/p").await.unwrap(), 2);
        assert!(blob.exists("projects/pq/other").await.unwrap());
    }

    #[tokio::test]
    async fn objects_in_a_folder_and_in_a_remote_store_behave_alike() {
        let (root, blob) = folder().await;
        check_objects(&blob).await;
        check_objects(&remote(root.path())).await;
    }

    #[tokio::test]
    async fn a_file_of_many_parts_arrives_whole_and_can_be_mapped() {
        let (root, blob) = folder().await;
        let content: Vec<u8> = (0..PART_BYTES * 2 + 5).map(|position| (position % 251) as u8).collect();
        let source = root.path().join("source");
        for (length, key) in [(content.len(), "long"), (PART_BYTES, "one-part"), (0, "empty")] {
            std::fs::write(&source, &content[..length]).unwrap();
            for blob in [&blob, &remote(&root.path().join("cache"))] {
                blob.put_file(key, &source).await.unwrap();
                let path = blob.local_path(key).await.unwrap();
                assert_eq!(std::fs::read(path).unwrap(), content[..length], "{key}");
            }
        }
    }

    #[tokio::test]
    async fn a_reader_keeps_what_it_opened_when_an_object_is_written_again() {
        use std::io::Read;
        let (_root, blob) = folder().await;
        blob.put("one", b"a long first content".to_vec()).await.unwrap();
        let mut opened = std::fs::File::open(blob.local_path("one").await.unwrap()).unwrap();
        blob.put("one", b"short".to_vec()).await.unwrap();
        let mut text = String::new();
        opened.read_to_string(&mut text).unwrap();
        assert_eq!(text, "a long first content");
    }

    #[tokio::test]
    async fn a_remote_object_is_copied_once() {
        let root = tempfile::tempdir().unwrap();
        let blob = remote(root.path());
        blob.put("one", b"first".to_vec()).await.unwrap();
        let path = blob.local_path("one").await.unwrap();
        blob.delete("one").await.unwrap();
        assert_eq!(blob.local_path("one").await.unwrap(), path);
        assert_eq!(std::fs::read(&path).unwrap(), b"first");
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 1, "no draft is left");
    }

    #[tokio::test]
    async fn a_failed_upload_leaves_no_object() {
        let (root, blob) = folder().await;
        let error = blob.put_file("one", &root.path().join("nowhere")).await.unwrap_err();
        assert!(error.to_string().contains("'one'"), "{error}");
        assert!(!blob.exists("one").await.unwrap());
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_explained() {
        for url in ["ftp://host/x", "blobs", "file://relative"] {
            let error = Blob::open(url, FilePath::new("/cache")).await.unwrap_err();
            assert!(matches!(error, BlobError::Address { .. }), "{error:?}");
            assert!(error.to_string().contains(url), "{error}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        let below_a_file = format!("file://{}/blobs", file.path().display());
        let error = Blob::open(&below_a_file, FilePath::new("/cache")).await.unwrap_err();
        assert!(matches!(error, BlobError::Failed { .. }), "{error:?}");
    }

    #[cfg(not(feature = "s3"))]
    #[tokio::test]
    async fn s3_without_its_feature_says_how_to_build_it() {
        let error = Blob::open("s3://bucket/prefix", FilePath::new("/cache")).await.unwrap_err();
        assert!(error.to_string().contains("--features s3"), "{error}");
    }
}
