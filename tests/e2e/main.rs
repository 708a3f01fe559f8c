//! Tests with Git and local roots. See `deptool_tests::sandbox`.

mod ground;
