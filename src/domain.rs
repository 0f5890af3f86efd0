//! The vocabulary of gleaner: ids, states and rules as types.
//!
//! Owns every rule that needs neither a database, a network nor a device. Any room may import it; it imports none. Everything
//! here is pure and synchronous: the same input gives the same output on every machine.

pub mod agreement;
pub mod budget;
pub mod class_folder;
pub mod content_hash;
pub mod event;
pub mod field_error;
pub mod ids;
pub mod import;
pub mod interval;
pub mod item;
pub mod job;
pub mod label;
pub mod label_errors;
pub mod label_studio;
pub mod learning_curve;
pub mod moco;
pub mod project;
pub mod random_slice;
pub mod role;
pub mod round;
pub mod seed;
pub mod settings;
pub mod statistics;
pub mod stopping;
pub mod strategy;
pub mod task;
pub mod webhook;
