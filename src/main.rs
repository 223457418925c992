//! The `chronosdb` binary.

fn main() {}
