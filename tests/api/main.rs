//! The API as its clients meet it: a server on a free port over a database of its own, called through HTTP.
//!
//! Tasks are made through the store, so no learner is needed; what the learner does is tested where it lives.

mod access;
mod agreement;
mod answer;
mod app;
mod bad_labels;
mod errors;
mod events;
mod idempotency;
mod import;
mod imports;
mod initial_weights;
mod items;
mod label_studio;
mod labeling;
mod outage;
mod overview;
mod projects;
mod results;
mod roles;
mod webhooks;
