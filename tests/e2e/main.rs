//! Tests with Git and local roots. See `deptool_tests::sandbox`.

mod bad_input;
mod files;
mod ground;
mod history;
mod lease;
mod outside;
mod push;
mod seen;
mod units;
