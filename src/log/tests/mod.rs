//! Tests of the log as a whole, over a store that crashes and fails on demand, and over RocksDB.

mod audit;
mod clients;
mod commit_tests;
mod concurrency_tests;
mod crash_tests;
mod failure_tests;
mod immutability_tests;
mod large_tests;
mod lifetime_tests;
mod load_tests;
mod model;
mod model_tests;
mod race_tests;
mod reading;
mod recording_tests;
mod recovery_tests;
mod requests;
mod retaining;
mod retention_fork_tests;
mod retention_tests;
mod row_tests;
mod steps;
pub(super) mod store;
mod trimming;
mod turn_tests;
mod world;
