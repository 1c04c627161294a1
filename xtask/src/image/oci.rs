//! An image as one file: the OCI image layout in a tar, with one gzip layer, and beside it what `docker load` reads.
//!
//! Image layout and configuration: OCI image specification 1.1. `manifest.json` is the format of `docker save`; it names the
//! same blobs. What must hold: the same image is the same bytes, on any machine.

use std::collections::BTreeMap;
use std::io::Write;

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::reference::Reference;
use super::tree::Tree;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// RFC 1952: "unknown", where gzip would write the system that it ran on.
const ANY_SYSTEM: u8 = 255;

/// An image.
pub(crate) struct Image {
    pub(crate) reference: Reference,
    pub(crate) tree: Tree,
    pub(crate) config: Config,
}

/// How the image is run, and what is said about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// As OCI (and Go) names it: `amd64`.
    pub(crate) architecture: &'static str,
    /// RFC 3339.
    pub(crate) created: String,
    pub(crate) path: &'static str,
    pub(crate) entrypoint: Vec<&'static str>,
    pub(crate) command: Vec<&'static str>,
    pub(crate) labels: BTreeMap<&'static str, String>,
}

/// What a finished image is in bytes.
pub(crate) struct Archive {
    pub(crate) bytes: Vec<u8>,
    /// Of the layer.
    pub(crate) compressed: usize,
    /// Of its files.
    pub(crate) unpacked: usize,
    /// Of the manifest, which names the image: `sha256:...`
    pub(crate) digest: String,
}

/// A blob of the layout.
struct Blob {
    bytes: Vec<u8>,
    hex: String,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        Self { hex: sha256(&bytes), bytes }
    }

    fn json(value: &Value) -> Self {
        Self::new(value.to_string().into_bytes())
    }

    fn digest(&self) -> String {
        format!("sha256:{}", self.hex)
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.hex)
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": self.digest(), "size": self.bytes.len() })
    }
}

impl Image {
    /// The image as a tar.
    pub(crate) fn archive(&self, compression: Compression) -> Result<Archive> {
        let tar = self.tree.tar()?;
        let mut gzip = GzBuilder::new().mtime(0).operating_system(ANY_SYSTEM).write(Vec::new(), compression);
        let layer = gzip.write_all(&tar).and_then(|()| gzip.finish()).context("cannot compress the layer")?;
        let layer = Blob::new(layer);
        let config = Blob::json(&self.config.json(&sha256(&tar)));
        let labels = &self.config.labels;
        let manifest = Blob::json(&json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config.descriptor(CONFIG),
            "layers": [layer.descriptor(LAYER)], "annotations": labels,
        }));
        let mut entry = manifest.descriptor(MANIFEST);
        entry["platform"] = json!({ "architecture": self.config.architecture, "os": "linux" });
        entry["annotations"] = json!({
            "io.containerd.image.name": self.reference.full(),
            "org.opencontainers.image.ref.name": self.reference.tag(),
        });
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] });
        let for_docker = json!([{
            "Config": config.path(), "RepoTags": [self.reference.short()], "Layers": [layer.path()],
        }]);

        let (compressed, digest) = (layer.bytes.len(), manifest.digest());
        let mut layout = Tree::default();
        for blob in [layer, config, manifest] {
            layout.file(&blob.path(), 0o644, blob.bytes);
        }
        layout.file("index.json", 0o644, index.to_string());
        layout.file("manifest.json", 0o644, for_docker.to_string());
        layout.file("oci-layout", 0o644, json!({ "imageLayoutVersion": "1.0.0" }).to_string());
        Ok(Archive { bytes: layout.tar()?, compressed, unpacked: self.tree.size(), digest })
    }
}

impl Config {
    /// The configuration of an image whose one layer has this sha256, uncompressed.
    fn json(&self, layer: &str) -> Value {
        let mut run = json!({
            "Env": [format!("PATH={}", self.path)], "Cmd": self.command, "WorkingDir": "/", "Labels": self.labels,
        });
        if !self.entrypoint.is_empty() {
            run["Entrypoint"] = json!(self.entrypoint);
        }
        json!({
            "architecture": self.architecture, "os": "linux", "created": self.created, "config": run,
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer}")] },
            "history": [{ "created": self.created, "created_by": "cargo xtask image" }],
        })
    }
}

/// In hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use flate2::read::GzDecoder;

    use super::*;

    fn image() -> Image {
        let mut tree = Tree::default();
        tree.file("usr/bin/a", 0o755, b"program".repeat(1000));
        let config = Config {
            architecture: "amd64",
            created: "2026-01-01T00:00:00Z".to_owned(),
            path: "/usr/bin",
            entrypoint: Vec::new(),
            command: vec!["a", "--help"],
            labels: [("org.opencontainers.image.title", "A".to_owned())].into(),
        };
        Image { reference: Reference::parse("mesh/a:1").unwrap(), tree, config }
    }

    /// The files of a tar.
    fn files(bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(bytes);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.path().unwrap().display().to_string(), content)
        });
        entries.filter(|(path, _)| !path.ends_with('/')).collect()
    }

    fn parse(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    /// The blob of a descriptor, after a look at its size and digest.
    fn blob<'a>(files: &'a BTreeMap<String, Vec<u8>>, descriptor: &Value, media_type: &str) -> &'a [u8] {
        assert_eq!(descriptor["mediaType"], media_type);
        let hex = descriptor["digest"].as_str().and_then(|digest| digest.strip_prefix("sha256:")).unwrap();
        let bytes = &files[&format!("blobs/sha256/{hex}")];
        assert_eq!((sha256(bytes).as_str(), bytes.len() as u64), (hex, descriptor["size"].as_u64().unwrap()));
        bytes
    }

    #[test]
    fn the_layout_leads_from_its_index_to_the_files() {
        let archive = image().archive(Compression::fast()).unwrap();
        let files = files(&archive.bytes);
        assert_eq!(parse(&files["oci-layout"])["imageLayoutVersion"], "1.0.0");
        let index = parse(&files["index.json"]);
        let entry = &index["manifests"][0];
        assert_eq!((&entry["digest"], index["schemaVersion"].as_u64()), (&json!(archive.digest), Some(2)));
        assert_eq!(entry["annotations"]["io.containerd.image.name"], "docker.io/mesh/a:1");
        assert_eq!(entry["annotations"]["org.opencontainers.image.ref.name"], "1");
        let manifest = parse(blob(&files, entry, MANIFEST));
        assert_eq!(manifest["annotations"]["org.opencontainers.image.title"], "A");
        let config = parse(blob(&files, &manifest["config"], CONFIG));
        let mut layer = Vec::new();
        let compressed = blob(&files, &manifest["layers"][0], LAYER);
        GzDecoder::new(compressed).read_to_end(&mut layer).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"], json!([format!("sha256:{}", sha256(&layer))]));
        assert_eq!(self::files(&layer)["usr/bin/a"], b"program".repeat(1000));
        assert_eq!((archive.compressed, archive.unpacked), (compressed.len(), 7000));
        assert_eq!(files.len(), 6, "three blobs, and what names them");
    }

    #[test]
    fn the_configuration_says_how_to_run_it() {
        let run = |image: &Image| image.config.json("00")["config"].clone();
        let mut image = image();
        assert_eq!(run(&image)["Env"], json!(["PATH=/usr/bin"]));
        assert_eq!(run(&image)["Cmd"], json!(["a", "--help"]));
        assert!(run(&image).get("Entrypoint").is_none());
        image.config.entrypoint = vec!["/usr/bin/a"];
        assert_eq!(run(&image)["Entrypoint"], json!(["/usr/bin/a"]));
    }

    #[test]
    fn docker_finds_the_same_blobs() {
        let archive = image().archive(Compression::fast()).unwrap();
        let files = files(&archive.bytes);
        let docker = parse(&files["manifest.json"]);
        assert_eq!(docker[0]["RepoTags"], json!(["mesh/a:1"]));
        let config = parse(&files[docker[0]["Config"].as_str().unwrap()]);
        assert_eq!(config["architecture"], "amd64");
        assert!(files[docker[0]["Layers"][0].as_str().unwrap()].starts_with(&[0x1f, 0x8b]));
    }

    #[test]
    fn the_same_image_is_the_same_bytes() {
        let bytes = |image: &Image| image.archive(Compression::best()).unwrap().bytes;
        assert!(bytes(&image()) == bytes(&image()));
        let mut other = image();
        other.config.created = "2026-01-02T00:00:00Z".to_owned();
        assert!(bytes(&image()) != bytes(&other));
    }

    #[test]
    fn the_header_of_gzip_has_no_time_and_no_system() {
        let archive = image().archive(Compression::fast()).unwrap();
        let files = files(&archive.bytes);
        let layer = files.values().find(|content| content.starts_with(&[0x1f, 0x8b])).unwrap();
        assert_eq!((&layer[3..8], layer[9]), (&[0, 0, 0, 0, 0][..], ANY_SYSTEM), "RFC 1952: flags, time, system");
    }
}
