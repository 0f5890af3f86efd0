//! gleaner: learns a pile of unlabelled images by itself, asks people only for the labels that teach its model the most, trains again
//! when a batch is complete, and goes on until the budget is spent.
//!
//! The rooms of the house stand here from the ground up; each may import only lower ones (`tests/architecture.rs` holds the table).
//! `docs/ARCHITECTURE.md` walks through them with one label.

#![deny(unsafe_code)]

pub mod domain;

pub mod config;
pub mod telemetry;

pub mod acquisition;
pub mod engine;
pub mod learner;
pub mod nn;
pub mod pretext;
pub mod vision;

pub mod access;
pub mod blob;
pub mod events;
pub mod outbound;
pub mod store;

pub mod export;
pub mod figures;
pub mod import;
pub mod label_studio;
pub mod labeling;
pub mod rounds;
pub mod simulate;
pub mod webhooks;
pub mod worker;

pub mod commands;
pub mod http;
