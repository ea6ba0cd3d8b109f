//! Conversations and properties.
