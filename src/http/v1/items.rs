//! Items and their images.

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::access::principal::Principal;
use crate::access::signed_image;
use crate::domain::ids::ItemId;
use crate::domain::item::Split;
use crate::domain::role::Role;
use crate::http::AppState;
use crate::http::auth::{Labeler, MaybeCaller, Tool, find_project};
use crate::http::extract::{List, Page, PageQuery, Path, Query};
use crate::http::problem::{ApiError, Problem, ProblemKind};
use crate::store;
use crate::store::class::ClassNames;
use crate::store::item::ItemRow;

/// One image of a project.
#[derive(Debug, Serialize, ToSchema)]
pub struct ItemAnswer {
    id: ItemId,
    /// Its path inside its source.
    name: String,
    split: Split,
    /// Of the original, in pixels.
    width: i32,
    /// Of the original, in pixels.
    height: i32,
    /// Of the original: 1, 3 or 4.
    channels: i32,
    /// SHA-256 of the content, hexadecimal.
    content_hash: String,
    /// The class's name; null while unlabelled, and always to labelers and tools, who could tell gold tasks by it.
    class: Option<String>,
    /// Whether it has a class; false where `class` is hidden.
    labeled: bool,
}

impl ItemAnswer {
    fn new(row: ItemRow, class_names: &ClassNames, caller: &Principal) -> Self {
        let class =
            row.class.filter(|_| caller.has_role(Role::Operator)).map(|class| class_names.name(class));
        Self {
            id: row.id,
            name: row.name,
            split: row.split,
            width: row.width,
            height: row.height,
            channels: row.channels,
            content_hash: row.content_hash.to_hex(),
            labeled: class.is_some(),
            class,
        }
    }
}

/// Which items are listed.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ItemQuery {
    /// Only this split.
    split: Option<Split>,
    /// Only items with a class, or only those without. Operators only.
    labeled: Option<bool>,
    /// At most so many entries, 1 to 1000; 100 when absent.
    #[param(minimum = 1, maximum = 1000, example = 100)]
    limit: Option<u32>,
    /// The `next` of the page before.
    #[param(pattern = "^[0-9a-f]{8}[.][0-9A-Za-z_-]+$")]
    after: Option<String>,
}

/// Lists a project's items in the order of their ids.
#[utoipa::path(
    get,
    path = "/api/v1/projects/{project}/items",
    operation_id = "list_items",
    tag = "items",
    params(("project" = String, Path, description = "Name or id"), ItemQuery),
    responses(
        (status = 403, description = "Needs role tool or higher", body = Problem, content_type = "application/problem+json"),
        (status = 200, description = "A page of items", body = Page<ItemAnswer>),
    ),
)]
pub async fn list_items(
    State(app): State<AppState>,
    caller: Tool,
    Path(project): Path<String>,
    Query(query): Query<ItemQuery>,
) -> Result<axum::Json<Page<ItemAnswer>>, ApiError> {
    let page = PageQuery { limit: query.limit, after: query.after };
    let limit = page.limit()?;
    if query.labeled.is_some() && !caller.has_role(Role::Operator) {
        return Err(ApiError::needs_role(Role::Operator, caller.role));
    }
    let mut connection = app.store.acquire().await?;
    let row = find_project(&mut connection, &caller, &project).await?;
    let list = List::new("items", &[&row.id]);
    let after: Option<ItemId> = list.after(&page)?;
    let class_names = ClassNames::read(&mut connection, row.id).await?;
    let rows =
        store::item::list(&mut connection, row.id, query.split, query.labeled, after, i64::from(limit))
            .await?;
    Ok(axum::Json(Page::new(
        rows,
        limit,
        |row| list.cursor(row.id),
        |row| ItemAnswer::new(row, &class_names, &caller),
    )))
}

/// Shows one item.
#[utoipa::path(
    get,
    path = "/api/v1/items/{item}",
    operation_id = "get_item",
    tag = "items",
    params(("item" = Uuid, Path, description = "The item's id")),
    responses(
        (status = 200, description = "The item", body = ItemAnswer),
    ),
)]
pub async fn get_item(
    State(app): State<AppState>,
    caller: Labeler,
    Path(item): Path<ItemId>,
) -> Result<axum::Json<ItemAnswer>, ApiError> {
    let mut connection = app.store.acquire().await?;
    let row = store::item::find(&mut connection, item).await?;
    let row =
        row.filter(|row| caller.may_touch(row.project)).ok_or_else(|| ApiError::not_found("item", item))?;
    let class_names = ClassNames::read(&mut connection, row.project).await?;
    Ok(axum::Json(ItemAnswer::new(row, &class_names, &caller)))
}

/// What lets an image be seen without a token.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ImageQuery {
    /// End of the address's validity, in seconds since 1970.
    expires: Option<i64>,
    /// HMAC-SHA256 over item and end, hexadecimal.
    signature: Option<String>,
}

/// Shows an item's original image, by a token, a session, or a signed address from a lease.
#[utoipa::path(
    get,
    path = "/api/v1/items/{item}/image",
    operation_id = "get_item_image",
    tag = "items",
    params(("item" = Uuid, Path, description = "The item's id"), ImageQuery),
    security((), ("token" = []), ("session" = [])),
    responses(
        (status = 200, description = "The original, as it was supplied", body = Vec<u8>, content_type = "image/*"),
        (status = 304, description = "The client has it"),
    ),
)]
pub async fn get_item_image(
    State(app): State<AppState>,
    Path(item): Path<ItemId>,
    Query(query): Query<ImageQuery>,
    headers: HeaderMap,
    caller: MaybeCaller,
) -> Result<Response, ApiError> {
    let signed = match (query.expires, query.signature.as_deref()) {
        (Some(expires), Some(signature)) => {
            if !signed_image::verify(&app.key, item, expires, signature, Utc::now()) {
                return Err(ApiError::new(
                    ProblemKind::Forbidden,
                    "the address has expired or is damaged; lease the task again",
                ));
            }
            true
        }
        _ => false,
    };
    let caller = if signed { None } else { Some(caller.require(Role::Labeler)?) };
    let mut connection = app.store.acquire().await?;
    let row = store::item::find(&mut connection, item).await?;
    drop(connection);
    let row = row
        .filter(|row| caller.is_none_or(|caller| caller.may_touch(row.project)))
        .ok_or_else(|| ApiError::not_found("item", item))?;
    let tag = format!("\"{}\"", row.content_hash);
    // A signed address is meant for whoever holds it, other tools' pages too.
    let reach = if signed { "cross-origin" } else { "same-origin" };
    let embedding = [("cross-origin-resource-policy", reach)];
    // Content never changes under an id, so a browser need not ask again.
    let fixed = [(ETAG, tag.clone()), (CACHE_CONTROL, "private, max-age=604800, immutable".to_owned())];
    if headers.get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return Ok((StatusCode::NOT_MODIFIED, embedding, fixed).into_response());
    }
    let pack = crate::blob::pack_key(row.project, row.segment);
    let start = u64::try_from(row.pack_offset).map_err(ApiError::internal)?;
    let length = u64::try_from(row.pack_length).map_err(ApiError::internal)?;
    let bytes = app.blob.get_range(&pack, start..start + length).await?;
    Ok((embedding, fixed, [(CONTENT_TYPE, row.media_type)], bytes).into_response())
}
