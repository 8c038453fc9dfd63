//! The mcc command line: importers, pipeline, bundle
