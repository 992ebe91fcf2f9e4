//! The words of expressions and of PartiQL.

/// A piece of an expression or a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// A keyword, a function or a plain name.
    Word(String),
    /// `#name`.
    Name(String),
    /// `:value`.
    Placeholder(String),
    /// `"name"`.
    Quoted(String),
    /// `'text'`.
    Text(String),
    Number(String),
    Symbol(&'static str),
}

const SYMBOLS: [&str; 20] = [
    "<>", "<=", ">=", "!=", "=", "<", ">", "(", ")", ",", "?", "{", "}", ":", ".", "[", "]", "+", "-", "*",
];

/// Which language a text is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    /// Where a colon begins a placeholder.
    Expression,
    /// Where it stands between a name and its value.
    PartiQl,
}

/// Cuts a text into its tokens.
///
/// # Errors
/// Names what cannot be read.
pub(crate) fn tokens(text: &str, language: Language) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, length) = match first {
            '#' => {
                let length = 1 + word(&rest[1..]);
                (Token::Name(rest[..length].to_owned()), length)
            }
            ':' if language == Language::Expression && word(&rest[1..]) > 0 => {
                let length = 1 + word(&rest[1..]);
                (Token::Placeholder(rest[..length].to_owned()), length)
            }
            '"' | '\'' => {
                let (content, length) = quoted(rest, first).ok_or_else(|| format!("an open {first} in `{text}`"))?;
                let token = if first == '"' {
                    Token::Quoted(content)
                } else {
                    Token::Text(content)
                };
                (token, length)
            }
            digit if digit.is_ascii_digit() => {
                let end = rest
                    .find(|c: char| !c.is_ascii_digit() && c != '.')
                    .unwrap_or(rest.len());
                (Token::Number(rest[..end].to_owned()), end)
            }
            letter if letter.is_ascii_alphabetic() || letter == '_' => {
                let length = word(rest);
                (Token::Word(rest[..length].to_owned()), length)
            }
            _ => match SYMBOLS.iter().find(|symbol| rest.starts_with(**symbol)) {
                Some(symbol) => (Token::Symbol(symbol), symbol.len()),
                None => return Err(format!("`{first}` in `{text}`")),
            },
        };
        tokens.push(token);
        rest = rest[length..].trim_start();
    }
    Ok(tokens)
}

fn word(text: &str) -> usize {
    text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(text.len())
}

/// What stands between quotes, which are doubled within, and the length of it all.
fn quoted(text: &str, quote: char) -> Option<(String, usize)> {
    let mut content = String::new();
    let mut at = 1;
    loop {
        let end = at + text[at..].find(quote)?;
        content.push_str(&text[at..end]);
        if !text[end + 1..].starts_with(quote) {
            return Some((content, end + 1));
        }
        content.push(quote);
        at = end + 2;
    }
}

/// Tokens that are read one after the other.
pub(crate) struct Reader<'a> {
    tokens: &'a [Token],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(tokens: &'a [Token]) -> Self {
        Self { tokens, at: 0 }
    }

    pub(crate) fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.at)
    }

    pub(crate) fn next(&mut self) -> Option<&'a Token> {
        let token = self.peek();
        self.at += 1;
        token
    }

    pub(crate) fn is_at_end(&self) -> bool {
        self.at >= self.tokens.len()
    }

    /// Takes this symbol, if it is next.
    pub(crate) fn symbol(&mut self, symbol: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Symbol(next)) if *next == symbol);
        self.at += usize::from(found);
        found
    }

    /// Takes this keyword, in any case, if it is next.
    pub(crate) fn keyword(&mut self, keyword: &str) -> bool {
        let found = matches!(self.peek(), Some(Token::Word(next)) if next.eq_ignore_ascii_case(keyword));
        self.at += usize::from(found);
        found
    }

    /// # Errors
    /// When another token than this symbol is next.
    pub(crate) fn expect(&mut self, symbol: &str) -> Result<(), String> {
        if self.symbol(symbol) {
            Ok(())
        } else {
            Err(self.unexpected(&format!("`{symbol}`")))
        }
    }

    /// That something else stands where `wanted` should.
    pub(crate) fn unexpected(&self, wanted: &str) -> String {
        match self.peek() {
            Some(token) => format!("{token:?} where the stand-in takes {wanted}"),
            None => format!("the end where the stand-in takes {wanted}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_into_their_tokens() {
        let partiql = |text| tokens(text, Language::PartiQl);
        let cut = partiql(r#"INSERT INTO "a""b" VALUE {'it''s':?,'n':12.5}"#).unwrap();
        let symbol = Token::Symbol;
        let expected = vec![
            Token::Word("INSERT".into()),
            Token::Word("INTO".into()),
            Token::Quoted("a\"b".into()),
            Token::Word("VALUE".into()),
            symbol("{"),
            Token::Text("it's".into()),
            symbol(":"),
            symbol("?"),
            symbol(","),
            Token::Text("n".into()),
            symbol(":"),
            Token::Number("12.5".into()),
            symbol("}"),
        ];
        assert_eq!(cut, expected);
        let cut = tokens("#x<=:1 :", Language::Expression).unwrap();
        let (name, value) = (Token::Name("#x".into()), Token::Placeholder(":1".into()));
        assert_eq!(cut, [name, symbol("<="), value, symbol(":")]);
        for wrong in ["'open", "a ; b", "é"] {
            assert!(partiql(wrong).is_err(), "{wrong}");
        }
    }
}
