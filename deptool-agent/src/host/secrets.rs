//! Secrets: files of apps that are encrypted to this host with age.

pub mod identity;
