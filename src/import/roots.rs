//! Which paths a server-side import may read.
//!
//! Private to `import`. A source must lie inside one of the allowed folders after every symbolic link is followed. What lies outside is
//! refused in the same words whether it exists or not, so that nobody can feel around the server's disk.

use std::path::{Component, Path, PathBuf};

use super::ImportError;

/// The canonical path of `source`, a plain path or a `file://` address, if it lies inside one of `roots`.
pub fn resolve_allowed(source: &str, roots: &[PathBuf]) -> Result<PathBuf, ImportError> {
    let refuse = |reason: String| ImportError::NotAllowed { source_name: source.to_owned(), reason };
    let path = Path::new(source.strip_prefix("file://").unwrap_or(source));
    if roots.is_empty() {
        return Err(refuse(
            "imports from the server's folders are off; list allowed folders in GLEANER_IMPORT_ROOTS".into(),
        ));
    }
    if !path.is_absolute() {
        return Err(refuse("give an absolute path on the server".into()));
    }
    let canonical_roots: Vec<_> = roots.iter().filter_map(|root| root.canonicalize().ok()).collect();
    let inside = |path: &Path| canonical_roots.iter().any(|root| path.starts_with(root));
    if let Ok(canonical) = path.canonicalize()
        && inside(&canonical)
    {
        return Ok(canonical);
    }
    let climbs = path.components().any(|component| component == Component::ParentDir);
    let named_inside = inside(path) || roots.iter().any(|root| path.starts_with(root));
    if named_inside && !climbs && !path.exists() {
        return Err(refuse("there is no such file or folder".into()));
    }
    let listed: Vec<_> = roots.iter().map(|root| root.display().to_string()).collect();
    Err(refuse(format!("it isn't inside an allowed folder (GLEANER_IMPORT_ROOTS: {})", listed.join(":"))))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn reason(source: &Path, roots: &[PathBuf]) -> String {
        resolve_allowed(source.to_str().unwrap(), roots).unwrap_err().to_string()
    }

    #[test]
    fn sources_inside_a_root_are_resolved_and_the_rest_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().canonicalize().unwrap();
        let (root, outside) = (base.join("root"), base.join("outside"));
        fs::create_dir_all(root.join("pile")).unwrap();
        fs::create_dir_all(&outside).unwrap();
        fs::create_dir_all(base.join("root-not")).unwrap();
        symlink(&outside, root.join("out")).unwrap();
        symlink(root.join("pile"), root.join("in")).unwrap();
        let roots = [root.clone()];

        let address = format!("file://{}", root.join("pile").display());
        assert_eq!(resolve_allowed(&address, &roots).unwrap(), root.join("pile"));
        assert_eq!(resolve_allowed(root.join("in").to_str().unwrap(), &roots).unwrap(), root.join("pile"));
        assert_eq!(resolve_allowed(root.to_str().unwrap(), &roots).unwrap(), root);
        for refused in
            [outside, root.join("out"), root.join("../outside"), base.join("root-not"), base.join("nothing")]
        {
            assert!(
                reason(&refused, &roots).contains("isn't inside an allowed folder"),
                "{}",
                refused.display()
            );
        }
        assert!(reason(&root.join("nothing"), &roots).contains("no such file"));
        assert!(reason(&root.join("../nothing"), &roots).contains("isn't inside"));
    }

    #[test]
    fn without_roots_nothing_is_allowed_and_relative_paths_never_are() {
        assert!(reason(Path::new("/etc"), &[]).contains("GLEANER_IMPORT_ROOTS"));
        assert!(reason(Path::new("pile"), &["/srv".into()]).contains("absolute"));
    }
}
