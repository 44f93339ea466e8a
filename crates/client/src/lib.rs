//! Client library: chunks, batches and objects.
