//! The host side: one connection, one deployment at a time.

pub mod apply;
pub mod attempts;
pub mod checkout;
pub mod claims;
pub mod deploy;
pub mod drift;
pub mod finish;
pub mod health;
pub mod home;
pub mod journal;
pub mod lock;
pub mod outside;
pub mod owners;
pub mod peer;
pub mod prepare;
mod receive;
pub mod session;
pub mod store;
pub mod undo;
pub mod why;

#[cfg(test)]
mod tests;
