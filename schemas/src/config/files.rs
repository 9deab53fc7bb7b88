//! The options of inputs that are files, declared once for command lines and `dataflow.yaml`.

/// How files are found and unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "clap", derive(clap::Args))]
pub struct FileOptions {
    /// Also read what links in an input folder lead to outside of it
    #[cfg_attr(feature = "clap", arg(long, conflicts_with = "config"))]
    pub follow_links: bool,
    /// The largest window of a zstd file, as a power of two: 31 reads any, and takes 2 GiB
    #[cfg_attr(feature = "clap", arg(long, value_name = "LOG", conflicts_with = "config"))]
    #[cfg_attr(feature = "clap", arg(value_parser = clap::value_parser!(u32).range(10..=31)))]
    #[cfg_attr(feature = "clap", arg(default_value_t = FileOptions::default().zstd_window_log))]
    pub zstd_window_log: u32,
}

impl Default for FileOptions {
    fn default() -> Self {
        // As zstd itself has it: 128 MiB.
        Self { follow_links: false, zstd_window_log: 27 }
    }
}
