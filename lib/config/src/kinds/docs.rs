//! docs/resources.md, made of the tables.
