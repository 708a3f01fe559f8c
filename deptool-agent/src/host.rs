//! The host side.

pub mod attempts;
pub mod checkout;
pub mod claims;
pub mod home;
pub mod journal;
pub mod lock;
pub mod outside;
pub mod owners;
pub mod peer;
pub mod store;
