//! The OpenAPI 3.1 document, made of the same macros as the routes.
//!
//! What holds for every operation is added here once: the idempotency key of a POST, the problem of an error, the security schemes.

use std::collections::{BTreeMap, HashSet};
use std::sync::LazyLock;

use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use utoipa::OpenApi;
use utoipa::openapi::path::{Operation, Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ArrayItems, Object, ObjectBuilder, Schema, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{
    ContentBuilder, PathItem, Ref, RefOr, Required, Response as ApiResponse, ResponseBuilder,
};

use super::auth::SESSION_COOKIE;
use super::problem::{PROBLEM_JSON, Problem};
use super::v1::classes::{ClassChanges, ClassLook};
use super::v1::exports::ExportFormat;
use crate::domain::item::Split;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "gleaner",
        description = "Annotation by deep active sampling: gleaner learns a pile of images by itself and asks people only for the labels that \
            teach its model the most. Errors are application/problem+json (RFC 9457). Lists page by `limit` and `after`. Every POST takes an \
            `Idempotency-Key`, which makes it safe to send again for 30 days. Roles: labeler < tool < operator < admin.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
        contact(),
    ),
    components(schemas(Problem, ClassChanges, ClassLook, ExportFormat, Split)),
    security(("token" = []), ("session" = [])),
    tags(
        (name = "projects", description = "Made, changed, deleted"),
        (name = "control", description = "Start, pause, finish, retry"),
        (name = "items", description = "Images in"),
        (name = "rounds", description = "What was asked, and why"),
        (name = "labeling", description = "Leases and labels"),
        (name = "results", description = "Labels, models and curves out"),
        (name = "events", description = "What happens, as it happens"),
        (name = "webhooks", description = "What happens, sent to an address"),
        (name = "label-studio", description = "Label Studio's ML-backend protocol"),
        (name = "access", description = "Tokens and sessions"),
        (name = "operations", description = "Health and measurements"),
    ),
)]
struct Base;

static DOCUMENT: LazyLock<String> = LazyLock::new(|| {
    // The document is made of constants, and a test serializes it.
    openapi().to_json().expect("a document made of constants can be serialized")
});

/// The document without paths, to which the routes add theirs.
pub(super) fn base() -> utoipa::openapi::OpenApi {
    Base::openapi()
}

/// The whole document.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    let mut document = super::api()
        .merge(super::predictions())
        .merge(super::task_predictions())
        .merge(super::uploads())
        .into_openapi();
    let components = document.components.get_or_insert_default();
    components.security_schemes.insert(
        "token".to_owned(),
        RefOr::T(SecurityScheme::Http(
            HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("gl_…").build(),
        )),
    );
    components.security_schemes.insert(
        "basic".to_owned(),
        RefOr::T(SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Basic).build())),
    );
    components.security_schemes.insert(
        "session".to_owned(),
        RefOr::T(SecurityScheme::ApiKey(ApiKey::Cookie(ApiKeyValue::new(SESSION_COOKIE)))),
    );
    flatten_schemas(&mut components.schemas);
    let optional = optional_bodies(&components.schemas);
    for item in document.paths.paths.values_mut() {
        for operation in operations(item) {
            operation.responses.responses.insert("default".to_owned(), RefOr::T(problem_response()));
        }
        if let Some(post) = item.post.as_mut().filter(|post| post.security.is_none()) {
            // An empty body of a POST counts as {}, so one without fields that it needs may be left out.
            if let Some(RefOr::T(body)) = post.request_body.as_mut()
                && let Some(RefOr::T(content)) = body.content.get("application/json")
                && let Some(RefOr::Ref(schema)) = &content.schema
                && optional.contains(&schema.ref_location)
            {
                body.required = Some(Required::False);
            }
            post.parameters.get_or_insert_default().push(RefOr::T(idempotency_key()));
        }
    }
    document
}

/// `GET /openapi.json`.
pub async fn document() -> Response {
    ([(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-cache")], DOCUMENT.as_str()).into_response()
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete]
        .into_iter()
        .filter_map(Option::as_mut)
}

fn problem_response() -> ApiResponse {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    ResponseBuilder::new().description("What went wrong").content(PROBLEM_JSON, content).build()
}

fn idempotency_key() -> Parameter {
    ParameterBuilder::new()
        .name("Idempotency-Key")
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(
            "1 to 200 visible characters; the same key with the same body gives the first answer again",
        ))
        .schema(Some(ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[!-~]{1,200}$")).build()))
        .build()
}

/// Makes one object of each `allOf` (a flattened struct). The parts can't stand side by side: one that knows no further properties refuses
/// those of the other, so no value would fit both.
fn flatten_schemas(schemas: &mut BTreeMap<String, RefOr<Schema>>) {
    let known = schemas.clone();
    schemas.values_mut().for_each(|schema| flatten_schema(schema, &known));
}

fn flatten_schema(schema: &mut RefOr<Schema>, known: &BTreeMap<String, RefOr<Schema>>) {
    match schema {
        RefOr::T(Schema::AllOf(parts)) => {
            let mut whole = Object::with_type(Type::Object);
            whole.description.clone_from(&parts.description);
            for part in parts.items.iter().filter_map(|part| find_object(part, known)) {
                whole.properties.extend(part.properties.clone());
                whole.required.extend(part.required.iter().cloned());
                whole.example = whole.example.or_else(|| part.example.clone());
                whole.additional_properties =
                    whole.additional_properties.or_else(|| part.additional_properties.clone());
            }
            whole.example = parts.example.clone().or(whole.example);
            *schema = RefOr::T(Schema::Object(whole));
        }
        RefOr::T(Schema::Object(object)) => {
            object.properties.values_mut().for_each(|property| flatten_schema(property, known));
        }
        // The entries of a page, written out where the page is described.
        RefOr::T(Schema::Array(array)) => {
            if let ArrayItems::RefOrSchema(items) = &mut array.items {
                flatten_schema(items, known);
            }
        }
        _ => {}
    }
}

/// The object that a part of an `allOf` is or refers to.
fn find_object<'a>(
    part: &'a RefOr<Schema>,
    known: &'a BTreeMap<String, RefOr<Schema>>,
) -> Option<&'a Object> {
    match part {
        RefOr::T(Schema::Object(object)) => Some(object),
        RefOr::T(_) => None,
        RefOr::Ref(reference) => {
            let name = reference.ref_location.rsplit('/').next()?;
            known.get(name).and_then(|schema| find_object(schema, known))
        }
    }
}

/// References to the objects that need no field.
fn optional_bodies(schemas: &BTreeMap<String, RefOr<Schema>>) -> HashSet<String> {
    let is_optional = |schema: &RefOr<Schema>| matches!(schema, RefOr::T(Schema::Object(object)) if object.required.is_empty());
    let optional = schemas.iter().filter(|(_, schema)| is_optional(schema));
    optional.map(|(name, _)| Ref::from_schema_name(name).ref_location).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_as_reviewed() {
        insta::assert_snapshot!(openapi().to_pretty_json().expect("a document"));
    }

    #[test]
    fn operations_are_named_verb_noun_and_no_two_alike() {
        let mut document = openapi();
        let mut names = HashSet::new();
        for (path, item) in &mut document.paths.paths {
            for operation in operations(item) {
                let name = operation.operation_id.clone().unwrap_or_default();
                assert!(name.contains('_'), "{path} has the operation '{name}'");
                assert!(names.insert(name.clone()), "'{name}' stands twice");
                assert!(operation.summary.is_some(), "'{name}' has no summary");
            }
        }
    }

    #[test]
    fn every_reference_has_its_schema() {
        let document = serde_json::to_value(openapi()).expect("a document");
        let text = document.to_string();
        for reference in text.split("\"#/components/schemas/").skip(1) {
            let name = reference.split('"').next().unwrap_or_default();
            assert!(document["components"]["schemas"].get(name).is_some(), "no schema {name}");
        }
    }
}
