//! Uploads: images or one archive as multipart form data, streamed into the object store and then imported like any other source.
//!
//! Nothing is held in memory but the chunk that just came. Several images are put into one tar, so that an import always reads one
//! file; a single zip or tar goes as it is.

use std::io;
use std::path::{Path as FilePath, PathBuf};

use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{FromRequest, Multipart, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use utoipa::ToSchema;

use super::imports::{CreatedImport, label_rule};
use crate::blob;
use crate::domain::ids::{ImportId, TokenId};
use crate::domain::import::{ImportFormat, LabelRule, SplitRule};
use crate::http::AppState;
use crate::http::auth::{Operator, find_project};
use crate::http::extract::{Path, parse_value};
use crate::http::idempotency::{Begun, Call};
use crate::http::problem::{ApiError, Problem, ProblemKind};
use crate::rounds::control;
use crate::store;
use crate::store::import::NewImport;
use crate::store::project::ProjectRow;

/// The form of an upload.
#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "describes the form in the API document; the form itself is read field by field"
)]
pub struct UploadForm {
    /// Images, or one zip or tar. The file name may hold folders (`cat/1.jpg`), which name classes.
    #[schema(value_type = Vec<String>, format = Binary)]
    file: Vec<Vec<u8>>,
    /// `auto` when absent.
    split: Option<SplitRule>,
    /// `hide` when absent; `keep` for a test split.
    labels: Option<LabelRule>,
}

/// Uploads images or an archive, and queues their import.
#[utoipa::path(
    post,
    path = "/api/v1/projects/{project}/images",
    operation_id = "upload_images",
    tag = "items",
    params(("project" = String, Path, description = "Name or id")),
    request_body(content = UploadForm, content_type = "multipart/form-data"),
    responses(
        (status = 403, description = "Needs role operator or higher", body = Problem, content_type = "application/problem+json"),
        (status = 202, description = "Stored and queued", body = CreatedImport),
    ),
)]
pub async fn upload_images(
    State(app): State<AppState>,
    caller: Operator,
    Path(project): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let mut connection = app.store.acquire().await?;
    // Before anything is read: an upload to a project that isn't there should end at once.
    let row = find_project(&mut connection, &caller, &project).await?;
    drop(connection);
    let mut call = Call::of(&request)?;
    let form = Multipart::from_request(request, &app)
        .await
        .map_err(|rejection| ApiError::new(ProblemKind::UnsupportedMediaType, rejection.body_text()))?;
    let folder = tempfile::tempdir_in(app.scratch.as_path()).map_err(ApiError::internal)?;
    let upload = Upload::receive(form, folder.path()).await?;
    call.body_hash = upload.hash;
    let labels = label_rule(upload.split, upload.labels)?;
    let source = upload.into_one_file(folder.path()).await?;

    let import = NewImport {
        id: ImportId::generate(),
        source: "upload".to_owned(),
        uploaded: true,
        format: ImportFormat::Auto,
        split: source.split,
        labels,
    };
    let key = blob::upload_key(import.id);
    // Stored before the transaction begins: it may take minutes, and a queued import must always find its file.
    app.blob.put_file(&key, &source.path).await?;
    match queue(&app, call, caller.token, &row, &import).await {
        Ok(Queued::New(response)) => Ok(response),
        Ok(Queued::Before(response)) => {
            remove(&app, &key).await;
            Ok(response)
        }
        Err(error) => {
            // A commit whose answer was lost may have queued the import, which then needs its file.
            if error.kind() != ProblemKind::Unavailable {
                remove(&app, &key).await;
            }
            Err(error)
        }
    }
}

/// What became of an upload's import.
enum Queued {
    /// It is queued.
    New(Response),
    /// The same upload was queued before; this one's file isn't needed.
    Before(Response),
}

async fn queue(
    app: &AppState,
    call: Call,
    token: TokenId,
    row: &ProjectRow,
    import: &NewImport,
) -> Result<Queued, ApiError> {
    let mut work = match call.begin(app, token).await? {
        Begun::Replay(replay) => return Ok(Queued::Before(replay.into_response())),
        Begun::Work(work) => work,
    };
    store::import::insert(work.connection(), row.id, import).await?;
    control::queue_import(work.connection(), row, import.id).await?;
    let response = work.finish(StatusCode::ACCEPTED, &CreatedImport { id: import.id }).await?;
    app.job_wake.wake();
    Ok(Queued::New(response))
}

async fn remove(app: &AppState, key: &str) {
    if let Err(error) = app.blob.delete(key).await {
        tracing::warn!(blob.key = key, error.cause = %error, "an upload that was not queued could not be removed");
    }
}

/// What was received, as files in a scratch folder.
struct Upload {
    files: Vec<(String, PathBuf)>,
    split: SplitRule,
    labels: Option<LabelRule>,
    /// SHA-256 over all fields with their names.
    hash: [u8; 32],
}

/// The one file that an import reads.
struct SourceFile {
    path: PathBuf,
    split: SplitRule,
}

impl Upload {
    async fn receive(mut form: Multipart, folder: &FilePath) -> Result<Self, ApiError> {
        let mut upload = Self { files: Vec::new(), split: SplitRule::default(), labels: None, hash: [0; 32] };
        let mut hash = Sha256::new();
        while let Some(field) = form.next_field().await.map_err(|error| refuse(&error))? {
            let name = field.name().unwrap_or_default().to_owned();
            hash.update(name.as_bytes());
            match (name.as_str(), field.file_name().map(clean_name)) {
                ("split", None) => upload.split = parse_text("split", field).await?,
                ("labels", None) => upload.labels = Some(parse_text("labels", field).await?),
                (_, Some(file_name)) => {
                    hash.update(file_name.as_bytes());
                    let path = folder.join(upload.files.len().to_string());
                    receive_file(field, &path, &mut hash).await?;
                    upload.files.push((file_name, path));
                }
                (unknown, None) => {
                    return Err(ApiError::invalid_field(
                        unknown,
                        "is no field of this form; it takes file, split and labels",
                    ));
                }
            }
        }
        if upload.files.is_empty() {
            return Err(ApiError::invalid_field(
                "file",
                "must be at least one image or archive, with its file name",
            ));
        }
        hash.update(upload.split.as_str());
        hash.update(upload.labels.map_or("", LabelRule::as_str));
        upload.hash = hash.finalize().into();
        Ok(upload)
    }

    async fn into_one_file(self, folder: &FilePath) -> Result<SourceFile, ApiError> {
        let split = self.split;
        if let [(_, path)] = self.files.as_slice()
            && is_archive(path).await.map_err(ApiError::internal)?
        {
            return Ok(SourceFile { path: path.clone(), split });
        }
        let target = folder.join("images.tar");
        let path = target.clone();
        let packed = tokio::task::spawn_blocking(move || pack(&self.files, &target)).await;
        packed.map_err(ApiError::internal)?.map_err(ApiError::internal)?;
        Ok(SourceFile { path, split })
    }
}

async fn receive_file(mut field: Field<'_>, path: &FilePath, hash: &mut Sha256) -> Result<(), ApiError> {
    let mut file = File::create(path).await.map_err(ApiError::internal)?;
    while let Some(chunk) = field.chunk().await.map_err(|error| refuse(&error))? {
        hash.update(&chunk);
        file.write_all(&chunk).await.map_err(ApiError::internal)?;
    }
    file.flush().await.map_err(ApiError::internal)
}

async fn parse_text<T: serde::de::DeserializeOwned>(name: &str, field: Field<'_>) -> Result<T, ApiError> {
    let text = field.text().await.map_err(|error| refuse(&error))?;
    parse_value(serde_json::Value::String(text)).map_err(|error| error.below(name))
}

/// The answer to a form that broke off or is too large.
pub(super) fn refuse(error: &MultipartError) -> ApiError {
    match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::new(
            ProblemKind::TooLarge,
            "the upload is larger than this service takes; send it in parts",
        ),
        _ => ApiError::new(ProblemKind::Malformed, format!("the form can't be read: {}", error.body_text())),
    }
}

/// A relative path without steps upwards; what a client calls a file never leads outside an archive.
fn clean_name(name: &str) -> String {
    let parts: Vec<_> = name.split(['/', '\\']).filter(|part| !matches!(*part, "" | "." | "..")).collect();
    let clean: String = parts.join("/").chars().filter(|c| !c.is_control()).collect();
    if clean.is_empty() { "image".to_owned() } else { clean }
}

/// Whether a file is a zip, a gzip or a tar by its first bytes.
async fn is_archive(path: &FilePath) -> io::Result<bool> {
    let mut start = Vec::with_capacity(512);
    File::open(path).await?.take(512).read_to_end(&mut start).await?;
    Ok(start.starts_with(b"PK\x03\x04")
        || start.starts_with(&[0x1f, 0x8b])
        || start.get(257..262) == Some(b"ustar"))
}

fn pack(files: &[(String, PathBuf)], target: &FilePath) -> io::Result<()> {
    let mut archive = tar::Builder::new(io::BufWriter::new(std::fs::File::create(target)?));
    for (name, path) in files {
        archive.append_file(name, &mut std::fs::File::open(path)?)?;
    }
    archive.into_inner()?.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_never_leads_outside_the_archive() {
        assert_eq!(clean_name("../../etc/passwd"), "etc/passwd");
        assert_eq!(clean_name("C:\\photos\\cat.png"), "C:/photos/cat.png");
        assert_eq!(clean_name("cat/1.jpg"), "cat/1.jpg");
        assert_eq!(clean_name("/"), "image");
    }

    #[tokio::test]
    async fn archives_are_told_from_images_by_their_first_bytes() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let image = folder.path().join("image");
        std::fs::write(&image, b"\x89PNG\r\n\x1a\n").expect("a file");
        let archive = folder.path().join("images.tar");
        pack(&[("a.png".to_owned(), image.clone())], &archive).expect("a tar");
        assert!(is_archive(&archive).await.expect("readable"));
        assert!(!is_archive(&image).await.expect("readable"));
    }
}
