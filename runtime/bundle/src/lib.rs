//! The kernel bundle: manifest, hashes, reading and writing
