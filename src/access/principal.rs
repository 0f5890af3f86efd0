//! The caller of a request, once its token is verified.

use std::sync::Arc;

use crate::domain::ids::{ProjectId, TokenId};
use crate::domain::role::Role;

/// Who calls: the token, its role, and the projects it may touch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The token that was shown; labels and leases belong to it.
    pub token: TokenId,
    /// What it allows.
    pub role: Role,
    /// The name it was given when it was made.
    pub name: Arc<str>,
    /// Projects it may touch; `None` for all.
    pub projects: Option<Arc<[ProjectId]>>,
}

impl Principal {
    /// Whether the caller has `role` or one that includes it.
    #[must_use]
    pub fn has_role(&self, role: Role) -> bool {
        self.role >= role
    }

    /// Whether the caller may touch a project at all.
    #[must_use]
    pub fn may_touch(&self, project: ProjectId) -> bool {
        self.projects.as_ref().is_none_or(|projects| projects.contains(&project))
    }

    /// Whether the caller may touch every project, and so make new ones.
    #[must_use]
    pub fn is_unscoped(&self) -> bool {
        self.projects.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scoped_token_touches_its_projects_only_and_a_role_includes_the_lower_ones() {
        let (mine, other) = (ProjectId::generate(), ProjectId::generate());
        let principal = Principal {
            token: TokenId::generate(),
            role: Role::Tool,
            name: "ana".into(),
            projects: Some([mine].into()),
        };
        assert!(principal.may_touch(mine) && !principal.may_touch(other) && !principal.is_unscoped());
        assert!(principal.has_role(Role::Labeler) && principal.has_role(Role::Tool));
        assert!(!principal.has_role(Role::Operator));
    }
}
