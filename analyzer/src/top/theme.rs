//! How pieces of text look on the screen: the roles of the text report in a terminal's own colours, or without any.

use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};

use crate::render::style::Role;
use crate::render::{brief, flow};

/// Colours, or none.
#[derive(Debug, Clone, Copy)]
pub struct Theme {
    /// There are colours.
    pub is_colored: bool,
}

impl Theme {
    /// How a role looks.
    pub fn of(self, role: Role) -> Style {
        let style = Style::new();
        let colored = |color| if self.is_colored { style.fg(color) } else { style };
        match role {
            Role::Plain => style,
            Role::Bad => colored(Color::Red).add_modifier(Modifier::BOLD),
            Role::Good | Role::Remedy => colored(Color::Green).add_modifier(Modifier::BOLD),
            Role::Warn => colored(Color::Yellow).add_modifier(Modifier::BOLD),
            Role::Strong | Role::Own => style.add_modifier(Modifier::BOLD),
            Role::Place => colored(Color::Cyan),
            Role::Dim => style.add_modifier(Modifier::DIM),
        }
    }

    /// A piece of text. Whatever anybody's text is shown comes through here: nothing in it moves a cursor, or turns the direction of reading.
    pub fn span(self, role: Role, text: impl AsRef<str>) -> Span<'static> {
        Span::styled(brief::clean(text.as_ref()), self.of(role))
    }

    /// A line of the text report.
    pub fn line(self, line: &flow::Line) -> Line<'static> {
        Line::from_iter(line.pieces().map(|(role, text)| self.span(role, text)))
    }
}
