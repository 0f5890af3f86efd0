//! Tests that drive the real binary with the real Fashion-MNIST: killed in every state, and used through a browser.
//!
//! Real binary, real Postgres, real images (the first ones of Debian's `dataset-fashion-mnist`).

#![expect(clippy::panic, reason = "a test ends with its reason")]

mod clients;
mod dataset;
mod exports;
mod journey;
mod kills;
mod measurements;
mod pages;
mod pytorch;
mod server;
mod watch;
