//! The names of objects: one function a kind, so that nobody spells a key by hand.
//!
//! Everything of a project lies below its prefix, so that it can be purged. What a job makes has the job's id in its key: an attempt that
//! was thought dead may write the same object again, but never another's.

use crate::domain::ids::{ImportId, JobId, ProjectId, SegmentId};

/// Everything that belongs to a project.
#[must_use]
pub fn project_prefix(project: ProjectId) -> String {
    format!("projects/{project}")
}

/// A segment's decoded images: u8 rows of size × size × channels. A cache that can be rebuilt from the pack.
#[must_use]
pub fn tensor_key(project: ProjectId, segment: SegmentId) -> String {
    format!("projects/{project}/segments/{segment}.tensor")
}

/// A segment's originals, one after the other.
#[must_use]
pub fn pack_key(project: ProjectId, segment: SegmentId) -> String {
    format!("projects/{project}/segments/{segment}.pack")
}

/// Weights of others that a project begins with, by the SHA-256 of the file.
#[must_use]
pub fn initial_weights_key(project: ProjectId, sha256: &str) -> String {
    format!("projects/{project}/initial/{sha256}.safetensors")
}

/// The checkpoint that a pretraining job ended with.
#[must_use]
pub fn pretext_key(project: ProjectId, job: JobId) -> String {
    format!("projects/{project}/pretext/{job}.safetensors")
}

/// The checkpoint of a model version, trained by a job.
#[must_use]
pub fn model_key(project: ProjectId, version: i32, job: JobId) -> String {
    format!("projects/{project}/models/{version}-{job}.safetensors")
}

/// The scores that a job gave a shard of the pool under a model version.
#[must_use]
pub fn score_key(project: ProjectId, version: i32, job: JobId) -> String {
    format!("projects/{project}/scores/{version}/{job}.bin")
}

/// The embeddings that a job computed of a shard of the pool.
#[must_use]
pub fn embedding_key(project: ProjectId, job: JobId) -> String {
    format!("projects/{project}/embeddings/{job}.bin")
}

/// The pretext losses that a job measured on a shard of the pool.
#[must_use]
pub fn pretext_loss_key(project: ProjectId, job: JobId) -> String {
    format!("projects/{project}/pretext-losses/{job}.bin")
}

/// What a selection job saw of the pool, for people to look at.
#[must_use]
pub fn overview_key(project: ProjectId, job: JobId) -> String {
    format!("projects/{project}/overviews/{job}.json")
}

/// The `number`-th checkpoint in the middle of an attempt of a job.
#[must_use]
pub fn checkpoint_key(project: ProjectId, job: JobId, attempt: i32, number: u64) -> String {
    format!("projects/{project}/checkpoints/{job}-{attempt}-{number}.safetensors")
}

/// The file that somebody uploaded to be imported; removed once read.
#[must_use]
pub fn upload_key(import: ImportId) -> String {
    format!("uploads/{import}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_paths_that_an_object_store_takes_as_they_are() {
        let (project, segment, job) = (ProjectId::generate(), SegmentId::generate(), JobId::generate());
        let keys = [
            tensor_key(project, segment),
            pack_key(project, segment),
            pretext_key(project, job),
            model_key(project, 3, job),
            score_key(project, 3, job),
            embedding_key(project, job),
            overview_key(project, job),
            checkpoint_key(project, job, 2, 7),
        ];
        for (index, key) in keys.iter().enumerate() {
            assert!(key.starts_with(&format!("{}/", project_prefix(project))), "{key}");
            assert_eq!(object_store::path::Path::from(key.as_str()).as_ref(), key);
            assert!(!keys[..index].contains(key), "{key}");
        }
        let upload = upload_key(ImportId::generate());
        assert_eq!(object_store::path::Path::from(upload.as_str()).as_ref(), upload);
    }
}
