//! The chunk engine: copy-on-write store with journal, checksums and recovery.
