//! Predictions: images in, class probabilities out, from the last published model.

use axum::body::Bytes;
use axum::extract::{FromRequest, Multipart, Request, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::uploads::refuse;
use crate::domain::field_error::FieldError;
use crate::domain::project::ClassIndex;
use crate::domain::settings::ImageShape;
use crate::engine::{Prediction, Predictions};
use crate::http::AppState;
use crate::http::auth::{Tool, find_project};
use crate::http::extract::{Path, read_body};
use crate::http::idempotency::{Begun, Call};
use crate::http::problem::{ApiError, Problem, ProblemKind};
use crate::store::class::ClassNames;
use crate::vision::{DecodeLimits, decode, fit};

/// Images of one request at most.
const IMAGE_COUNT_MAX: usize = 256;

/// Images to be judged.
#[derive(ToSchema)]
#[expect(
    dead_code,
    reason = "describes the form in the API document; the form itself is read field by field"
)]
pub struct PredictionForm {
    /// 1 to 256 images in any supported encoding.
    #[schema(value_type = Vec<String>, format = Binary)]
    image: Vec<Vec<u8>>,
}

/// What the model thinks of the images.
#[derive(Debug, Serialize, ToSchema)]
pub struct PredictionsAnswer {
    /// The model that was asked.
    model_version: u32,
    /// One entry an image, in the order sent.
    predictions: Vec<PredictionAnswer>,
}

/// What the model thinks of one image.
#[derive(Debug, Serialize, ToSchema)]
pub struct PredictionAnswer {
    /// The file name it was sent under.
    name: String,
    /// The most probable class.
    class: String,
    /// Every class, the most probable first.
    probabilities: Vec<ClassProbability>,
    /// Normalised entropy, 0 (certain) to 1.
    uncertainty: f32,
}

/// The probability of one class.
#[derive(Debug, Serialize, ToSchema)]
pub struct ClassProbability {
    /// The class's name.
    class: String,
    /// 0 to 1.
    probability: f32,
}

/// Judges images by the last published model: form data with one or more images, or one image as the body.
#[utoipa::path(
    post,
    path = "/api/v1/projects/{project}/predictions",
    operation_id = "create_predictions",
    tag = "results",
    params(("project" = String, Path, description = "Name or id")),
    request_body(content(
        (PredictionForm = "multipart/form-data"),
        (Vec<u8> = "image/*"),
    )),
    responses(
        (status = 403, description = "Needs role tool or higher", body = Problem, content_type = "application/problem+json"),
        (status = 200, description = "One entry an image", body = PredictionsAnswer),
    ),
)]
pub async fn create_predictions(
    State(app): State<AppState>,
    caller: Tool,
    Path(project): Path<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let Some(engine) = app.engine.clone() else {
        return Err(ApiError::new(
            ProblemKind::Unavailable,
            "this server has no engine; ask one that runs with role all",
        ));
    };
    let mut connection = app.store.acquire().await?;
    let row = find_project(&mut connection, &caller, &project).await?;
    let class_names = ClassNames::read(&mut connection, row.id).await?;
    drop(connection);
    let mut call = Call::of(&request)?;
    let images = receive(request, &app).await?;
    call.body_hash = hash(&images);
    let (names, images): (Vec<_>, Vec<_>) = images.into_iter().unzip();
    let shape = row.settings.image;
    let packed =
        tokio::task::spawn_blocking(move || pack(&images, shape)).await.map_err(ApiError::internal)??;
    let work = match call.begin(&app, caller.token).await? {
        Begun::Replay(replay) => return Ok(replay.into_response()),
        Begun::Work(work) => work,
    };
    let predictions = engine.predict(row.id, packed).await?;
    work.finish(StatusCode::OK, &PredictionsAnswer::new(predictions, names, &class_names)).await
}

impl PredictionsAnswer {
    fn new(predictions: Predictions, names: Vec<String>, class_names: &ClassNames) -> Self {
        let rows = names.into_iter().zip(predictions.rows);
        Self {
            model_version: predictions.model_version,
            predictions: rows.map(|(name, row)| PredictionAnswer::new(name, &row, class_names)).collect(),
        }
    }
}

impl PredictionAnswer {
    fn new(name: String, prediction: &Prediction, class_names: &ClassNames) -> Self {
        let mut probabilities: Vec<_> = (0..)
            .zip(&prediction.probabilities)
            .map(|(index, probability)| ClassProbability {
                class: class_names.name(ClassIndex(index)),
                probability: *probability,
            })
            .collect();
        // Stable, so that equal probabilities stay in the order of the classes.
        probabilities.sort_by(|one, other| other.probability.total_cmp(&one.probability));
        let class = probabilities.first().map(|best| best.class.clone()).unwrap_or_default();
        Self { name, class, probabilities, uncertainty: prediction.uncertainty }
    }
}

/// Names and bytes of the images of a request.
async fn receive(request: Request, app: &AppState) -> Result<Vec<(String, Bytes)>, ApiError> {
    let media_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    if media_type.starts_with("image/") {
        return Ok(vec![("image".to_owned(), read_body(request, app).await?)]);
    }
    let mut form = Multipart::from_request(request, app).await.map_err(|_| {
        ApiError::new(
            ProblemKind::UnsupportedMediaType,
            "send multipart/form-data with images, or one image as image/*",
        )
    })?;
    let mut images = Vec::new();
    while let Some(field) = form.next_field().await.map_err(|error| refuse(&error))? {
        let name = field.file_name().or(field.name()).unwrap_or("image").to_owned();
        images.push((name, field.bytes().await.map_err(|error| refuse(&error))?));
    }
    if (1..=IMAGE_COUNT_MAX).contains(&images.len()) {
        Ok(images)
    } else {
        Err(ApiError::invalid_field("image", format!("must be 1 to {IMAGE_COUNT_MAX} images")))
    }
}

fn hash(images: &[(String, Bytes)]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for (name, bytes) in images {
        hash.update(name.len().to_le_bytes());
        hash.update(name);
        hash.update(bytes.len().to_le_bytes());
        hash.update(bytes);
    }
    hash.finalize().into()
}

/// Decodes and fits every image; all that can't be decoded are named in one answer.
fn pack(images: &[Bytes], shape: ImageShape) -> Result<Vec<Vec<u8>>, ApiError> {
    let mut packed = Vec::with_capacity(images.len());
    let mut errors = Vec::new();
    for (index, bytes) in images.iter().enumerate() {
        match decode(bytes, &DecodeLimits::default()) {
            Ok(image) => packed.push(fit(&image, shape)),
            Err(error) => errors.push(FieldError::new(format!("image.{index}"), error.to_string())),
        }
    }
    if errors.is_empty() { Ok(packed) } else { Err(ApiError::invalid(errors)) }
}
