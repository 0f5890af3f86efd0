//! The labelling config: an XML form, of which gleaner fills the one `<Choices>` that stands on an `<Image>`.

use std::collections::BTreeMap;

use roxmltree::{Document, Node};

/// What a labelling config asks: one choice on one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelConfig {
    /// Name of the `<Choices>`, a result's `from_name`.
    pub from_name: String,
    /// Name of the `<Image>`, a result's `to_name`.
    pub to_name: String,
    /// Key in a task's `data` that holds the image's address.
    pub image_key: String,
    /// What stands in a result, by the choice's `value` (a choice with an `alias` is written as that).
    aliases: BTreeMap<String, String>,
}

/// Why a labelling config can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// It isn't XML.
    #[error("the labelling config is no XML: {0}")]
    Malformed(String),
    /// It asks for no class.
    #[error("the labelling config has no <Choices>; gleaner fills one <Choices> on an <Image>")]
    NoChoices,
    /// It asks for several.
    #[error("the labelling config has {} <Choices> ({}); gleaner fills one, so keep one", .0.len(), .0.join(", "))]
    SeveralChoices(Vec<String>),
    /// Its choices take several classes at once.
    #[error(
        "<Choices name=\"{0}\"> takes several choices at once; an item has one class, so make it choice=\"single\""
    )]
    Multiple(String),
    /// Its choices don't stand on an image.
    #[error(
        "<Choices name=\"{name}\"> stands on \"{to_name}\", and there is no <Image> of that name with value=\"$key\""
    )]
    NoImage {
        /// The choices.
        name: String,
        /// What they point to.
        to_name: String,
    },
    /// A tag lacks a name.
    #[error("<{0}> needs the attribute {1}")]
    MissingAttribute(&'static str, &'static str),
    /// It lacks classes of the project.
    #[error("<Choices name=\"{name}\"> lacks classes of the project: {}; add a <Choice value=\"…\"/> for each", .missing.join(", "))]
    MissingClasses {
        /// The choices.
        name: String,
        /// Classes without a choice.
        missing: Vec<String>,
    },
}

impl LabelConfig {
    /// Reads a labelling config.
    ///
    /// # Errors
    /// One that isn't XML, or asks for anything but one class of one image.
    pub fn parse(xml: &str) -> Result<Self, ConfigError> {
        let document = Document::parse(xml).map_err(|error| ConfigError::Malformed(error.to_string()))?;
        let tags = |name: &'static str| document.descendants().filter(move |node| node.has_tag_name(name));
        let choices: Vec<Node<'_, '_>> = tags("Choices").collect();
        let choices = match choices.as_slice() {
            [] => return Err(ConfigError::NoChoices),
            [one] => *one,
            several => {
                let name =
                    |node: &Node<'_, '_>| node.attribute("name").unwrap_or("without a name").to_owned();
                return Err(ConfigError::SeveralChoices(several.iter().map(name).collect()));
            }
        };
        let from_name = attribute(choices, "Choices", "name")?;
        let to_name = attribute(choices, "Choices", "toName")?;
        if choices.attribute("choice").is_some_and(|kind| kind == "multiple") {
            return Err(ConfigError::Multiple(from_name));
        }
        let image = tags("Image").find(|image| image.attribute("name") == Some(&to_name));
        let image_key = image.and_then(|image| image.attribute("value")?.strip_prefix('$'));
        let Some(image_key) = image_key else {
            return Err(ConfigError::NoImage { name: from_name, to_name });
        };
        let aliases = choices
            .descendants()
            .filter(|node| node.has_tag_name("Choice"))
            .filter_map(|choice| {
                let value = choice.attribute("value")?;
                Some((value.to_owned(), choice.attribute("alias").unwrap_or(value).to_owned()))
            })
            .collect();
        Ok(Self { image_key: image_key.to_owned(), from_name, to_name, aliases })
    }

    /// What a result says for a class; `None` when no choice stands for it.
    #[must_use]
    pub fn choice(&self, class: &str) -> Option<&str> {
        self.aliases.get(class).map(String::as_str)
    }

    /// The class that a result's choice stands for; what no choice is called is taken as it is.
    #[must_use]
    pub fn class<'a>(&'a self, choice: &'a str) -> &'a str {
        let found = self.aliases.iter().find(|(_, alias)| *alias == choice);
        found.map_or(choice, |(value, _)| value)
    }

    /// Checks that every class has a choice.
    ///
    /// # Errors
    /// Classes without one.
    pub fn cover<'a>(&self, classes: impl IntoIterator<Item = &'a str>) -> Result<(), ConfigError> {
        let missing: Vec<String> = classes
            .into_iter()
            .filter(|class| !self.aliases.contains_key(*class))
            .map(str::to_owned)
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(ConfigError::MissingClasses { name: self.from_name.clone(), missing })
    }
}

fn attribute(node: Node<'_, '_>, tag: &'static str, name: &'static str) -> Result<String, ConfigError> {
    let text = node.attribute(name).filter(|text| !text.is_empty());
    text.map(str::to_owned).ok_or(ConfigError::MissingAttribute(tag, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORDED: &str = r#"<View><Image name="image" value="$image"/><Choices name="label" toName="image" choice="single"><Choice value="cat"/><Choice value="dog"/></Choices></View>"#;

    #[test]
    fn the_names_of_choices_and_image_are_found() {
        let config = LabelConfig::parse(RECORDED).unwrap();
        assert_eq!((config.from_name.as_str(), config.to_name.as_str()), ("label", "image"));
        assert_eq!((config.image_key.as_str(), config.choice("cat")), ("image", Some("cat")));
        assert_eq!(config.choice("cow"), None);
        assert_eq!(config.cover(["cat", "dog"]), Ok(()));
        let missing = config.cover(["cat", "cow"]).unwrap_err().to_string();
        assert!(missing.contains("lacks classes of the project: cow;"), "{missing}");
    }

    #[test]
    fn an_alias_stands_in_results() {
        let xml = r#"<View><!-- two --><Header value="What is it?"/><Choices name="kind" toName="photo" showInLine="true">
            <Choice value="T-shirt/top" alias="shirt"/><Choice value="Bag"/></Choices><Image name="photo" value="$url" zoom="true"/></View>"#;
        let config = LabelConfig::parse(xml).unwrap();
        assert_eq!((config.image_key.as_str(), config.choice("T-shirt/top")), ("url", Some("shirt")));
        assert_eq!(
            (config.class("shirt"), config.class("Bag"), config.class("x")),
            ("T-shirt/top", "Bag", "x")
        );
    }

    #[rstest::rstest]
    #[case("<View", "no XML")]
    #[case("", "no XML")]
    #[case(
        r#"<View><Image name="i" value="$i"/><RectangleLabels name="r" toName="i"/></View>"#,
        "no <Choices>"
    )]
    #[case(
        r#"<View><Image name="i" value="$i"/><Choices name="a" toName="i"/><Choices name="b" toName="i"/></View>"#,
        "2 <Choices> (a, b)"
    )]
    #[case(
        r#"<View><Image name="i" value="$i"/><Choices name="a" toName="i" choice="multiple"/></View>"#,
        "single"
    )]
    #[case(r#"<View><Text name="t" value="$t"/><Choices name="a" toName="t"/></View>"#, "no <Image>")]
    #[case(r#"<View><Image name="i" value="fixed"/><Choices name="a" toName="i"/></View>"#, "no <Image>")]
    #[case(r#"<View><Image name="i" value="$i"/><Choices toName="i"/></View>"#, "needs the attribute name")]
    #[case(r#"<!DOCTYPE v [<!ENTITY a "aaaa">]><View><Choices name="&a;" toName="i"/></View>"#, "no XML")]
    fn a_config_that_does_not_fit_says_why(#[case] xml: &str, #[case] words: &str) {
        let error = LabelConfig::parse(xml).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}
