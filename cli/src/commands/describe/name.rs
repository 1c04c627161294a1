//! A pod or service as a user names it: `NAMESPACE/NAME`, or as Istio's command writes it, `NAME.NAMESPACE`. A pod's name may have dots
//! itself: then the whole is tried first.

use underpass_core::ObjectName;

use crate::error::CliError;

/// What a name may mean, the likeliest first; never empty.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) struct Named(ObjectName, Option<ObjectName>);

impl Named {
    pub(in super::super) fn parse(text: &str, namespace: &str) -> Self {
        if let Some((namespace, name)) = text.split_once('/') {
            return Self(ObjectName::new(namespace, name), None);
        }
        let whole = ObjectName::new(namespace, text);
        match text.rsplit_once('.') {
            Some((name, of)) => Self(ObjectName::new(of, name), Some(whole)),
            None => Self(whole, None),
        }
    }

    /// The likeliest.
    pub(in super::super) const fn first(&self) -> &ObjectName {
        &self.0
    }

    /// The first that is found; the error of the likeliest, where none is.
    pub(in super::super) fn find<T>(&self, find: impl Fn(&ObjectName) -> Result<T, CliError>) -> Result<T, CliError> {
        match (find(&self.0), &self.1) {
            (Err(e @ CliError::NotFound { .. }), Some(other)) => find(other).map_err(|_| e),
            (found, _) => found,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_users_write() {
        let check = |text: &str, want: &[&str]| {
            let Named(first, other) = Named::parse(text, "here");
            let all: Vec<String> = std::iter::once(first).chain(other).map(|name| name.to_string()).collect();
            assert_eq!(all, want, "{text}");
        };
        check("cart", &["here/cart"]);
        check("shop/cart", &["shop/cart"]);
        check("shop/cart.v1", &["shop/cart.v1"]);
        check("cart.shop", &["shop/cart", "here/cart.shop"]);
        check("cart.v1.shop", &["shop/cart.v1", "here/cart.v1.shop"]);
    }

    #[test]
    fn the_whole_is_tried_where_the_rest_is_no_namespace() {
        let named = Named::parse("cart.v1", "here");
        let only = |known: &'static str| {
            named.find(|name| match name.to_string() == known {
                true => Ok(name.to_string()),
                false => Err(CliError::NotFound { says: format!("no {name}") }),
            })
        };
        assert_eq!(only("v1/cart").unwrap(), "v1/cart");
        assert_eq!(only("here/cart.v1").unwrap(), "here/cart.v1");
        assert_eq!(only("else/x").unwrap_err().to_string(), "no v1/cart");
    }
}
