//! Generated posts, as the `generator:` source and `tagflow generate` use them.

mod popularity;
mod posts;
mod words;

pub use posts::{Generator, GeneratorSpec};
