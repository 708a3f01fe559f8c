//! Tests with Git and local roots. See `deptool_tests::sandbox`.

mod bad_input;
mod completion;
mod cut;
mod dist;
mod files;
mod ground;
mod group;
mod history;
mod hostile_host;
mod lease;
mod local_user;
mod manual;
mod outside;
mod plan;
mod progress;
mod push;
mod remote_helper;
mod scale;
mod scope;
mod seen;
mod snapshot;
mod stand_in;
mod sweep;
mod units;
mod wire;
mod wiring;
