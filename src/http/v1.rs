//! Version 1 of the API, one file a resource. Handlers are thin: they parse, check the role, call a lower room inside one
//! transaction, and shape the answer. Request and response structs stand beside their handler.

pub mod agreement;
pub mod classes;
pub mod control;
pub mod curve;
pub mod events;
pub mod exports;
pub mod imports;
pub mod initial_weights;
pub mod items;
pub mod labelers;
pub mod labels;
pub mod leases;
pub mod me;
pub mod models;
pub mod overview;
pub mod predictions;
pub mod projects;
pub mod rounds;
pub mod tasks;
pub mod tokens;
pub mod uploads;
pub mod webhooks;
