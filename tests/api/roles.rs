//! Who may call what: every operation of the document with every role and with no token, held to one table.

use std::collections::BTreeMap;

use gleaner::domain::role::Role;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::app::{App, send, spawn_app};

/// Who may call an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// Anybody.
    Open,
    /// Who holds a token of this role or a higher one.
    From(Role),
}

use Access::{From, Open};
use Role::{Admin, Labeler, Operator, Tool};

/// The one table: the operations of the document, and who may call each.
const TABLE: &[(Access, &[&str])] = &[
    // A session is made with a token or code in the body, and ended by whoever has it; a signed address opens its image to anybody.
    (Open, &["get_health", "get_readiness", "get_backend_health", "create_session", "delete_session"]),
    (
        From(Labeler),
        &[
            "correct_label",
            "create_leases",
            "draw_curve",
            "draw_model_confusion",
            "get_curve",
            "get_item",
            "get_item_image",
            "get_me",
            "get_model_confusion",
            "get_own_statistics",
            "get_project",
            "get_round",
            "list_models",
            "list_projects",
            "list_rounds",
            "release_leases",
            "renew_leases",
            "skip_task",
            "submit_labels",
            "undo_label",
        ],
    ),
    (
        From(Tool),
        &[
            "change_webhook",
            "create_predictions",
            "create_webhook",
            "delete_webhook",
            "export_labels",
            "get_model_weights",
            "get_webhook",
            "list_deliveries",
            "list_items",
            "list_unkept_annotations",
            "list_webhooks",
            "predict_tasks",
            "receive_annotation",
            "redeliver_events",
            "replace_webhook_secret",
            "setup_backend",
            "stream_project_events",
            "test_webhook",
            "train_backend",
        ],
    ),
    (
        From(Operator),
        &[
            "change_project",
            "create_import",
            "create_project",
            "delete_initial_weights",
            "delete_project",
            "draw_round_scores",
            "finish_project",
            "get_agreement",
            "get_import",
            "get_initial_weights",
            "get_metrics",
            "get_round_map",
            "get_round_scores",
            "list_imports",
            "list_labelers",
            "list_round_tasks",
            "pause_project",
            "replace_initial_weights",
            "resume_project",
            "retry_project",
            "set_aside_labeler",
            "start_project",
            "stream_events",
            "upload_images",
        ],
    ),
    (From(Admin), &["create_token", "list_tokens", "revoke_token"]),
];

/// An operation of the document.
struct Operation {
    name: String,
    method: Method,
    /// With ids in place of its parameters that nothing has.
    path: String,
}

fn operations() -> Vec<Operation> {
    let document = json!(gleaner::http::openapi());
    let mut operations = Vec::new();
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for (method, operation) in methods.as_object().expect("methods") {
            let Some(name) = operation["operationId"].as_str() else { continue };
            let method = method.to_uppercase().parse().expect("a method of HTTP");
            operations.push(Operation { name: name.to_owned(), method, path: fill(path) });
        }
    }
    operations
}

/// A path whose parameters name nothing that exists: ids, and numbers where a number is wanted.
fn fill(path: &str) -> String {
    let part = |part: &str| match part {
        "{n}" | "{number}" | "{version}" | "{round}" => "1".to_owned(),
        part if part.starts_with('{') => uuid::Uuid::now_v7().to_string(),
        part => part.to_owned(),
    };
    path.split('/').map(part).collect::<Vec<_>>().join("/")
}

async fn call(app: &App, operation: &Operation, token: Option<&str>) -> StatusCode {
    let mut request = app.bare(operation.method.clone(), &operation.path);
    if let Some(token) = token {
        request = request.bearer_auth(token);
    }
    if operation.method != Method::GET {
        request = request.json(&Value::Object(serde_json::Map::new()));
    }
    // The head says all; a stream of events never ends.
    request.send().await.expect("an answer").status()
}

#[tokio::test]
async fn every_operation_is_open_to_those_whom_the_table_names_and_to_nobody_else() {
    let app = spawn_app().await;
    let table: BTreeMap<&str, Access> =
        TABLE.iter().flat_map(|(access, names)| names.iter().map(|name| (*name, *access))).collect();
    let operations = operations();
    let mut named: Vec<&str> = operations.iter().map(|operation| operation.name.as_str()).collect();
    named.sort_unstable();
    assert_eq!(named, table.keys().copied().collect::<Vec<_>>(), "the document's operations and the table's");
    let mut tokens = Vec::new();
    for role in [Labeler, Tool, Operator, Admin] {
        tokens.push((role, app.token(role).await));
    }
    let mut wrong = Vec::new();
    for operation in &operations {
        let access = table[operation.name.as_str()];
        let without = call(&app, operation, None).await;
        let refused = without == StatusCode::UNAUTHORIZED;
        if refused != (access != Open) {
            wrong.push(format!("{} without a token: {without}", operation.name));
        }
        for (role, token) in &tokens {
            let status = call(&app, operation, Some(token)).await;
            let expected = match access {
                Open => false,
                From(needed) => *role < needed,
            };
            if (status == StatusCode::FORBIDDEN) != expected
                || (status == StatusCode::UNAUTHORIZED && access != Open)
            {
                wrong.push(format!("{} as {role:?}: {status}", operation.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn a_token_that_ended_opens_nothing_that_needs_one() {
    let app = spawn_app().await;
    let token = app.token(Admin).await;
    let me = send(app.request(&token, Method::GET, "/api/v1/me")).await.expect(200);
    let id = me["id"].as_str().expect("an id").to_owned();
    send(app.request(&app.admin, Method::DELETE, &format!("/api/v1/tokens/{id}"))).await.expect(204);
    let open: Vec<&str> = TABLE
        .iter()
        .filter(|(access, _)| *access == Open)
        .flat_map(|(_, names)| names.iter().copied())
        .collect();
    for operation in operations().iter().filter(|operation| !open.contains(&operation.name.as_str())) {
        assert_eq!(call(&app, operation, Some(&token)).await, StatusCode::UNAUTHORIZED, "{}", operation.name);
    }
}
