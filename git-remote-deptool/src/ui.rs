//! Output for people: progress, plans, and text that fits the terminal and its character set.

pub mod columns;
pub mod locale;
pub mod progress;
pub mod render;
