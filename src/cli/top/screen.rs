//! What is on the screen, and how keys change it. It knows no terminal, so that tests need none.

use super::{
    By, Window,
    format::{bytes, count, span},
    protections,
    source::{Snapshot, Switch},
    table::{Column, Enter, Filter, Kind, Tab, Table, named},
};
use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::{
    Frame,
    layout::{Alignment, Constraint, Layout, Rect},
    style::{Style, Stylize},
    text::{Line, Span, Text},
    widgets::{Block, Cell, Clear, Paragraph, TableState},
};

#[derive(Debug)]
pub(super) struct Screen {
    /// Where it is asked, for messages.
    url: String,
    window: Window,
    by: By,
    /// The last that was heard.
    snapshot: Option<Snapshot>,
    /// Why nothing was heard since.
    error: Option<anyhow::Error>,
    /// The table that is shown, last, and those that Esc goes back to. Never empty.
    path: Vec<Shown>,
    help: bool,
    /// The protection whose mode is asked for.
    choosing: Option<String>,
    /// What became of the last switch.
    told: Option<Result<String, anyhow::Error>>,
}

#[derive(Debug)]
struct Shown {
    tab: Tab,
    filter: Filter,
    selected: TableState,
}

/// What is to be done after a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    Draw,
    Switch(Switch),
    /// Ask for another window.
    Ask(Window),
    Quit,
}

impl Shown {
    fn new(tab: Tab, filter: Filter) -> Self {
        Self { tab, filter, selected: TableState::default().with_selected(0) }
    }

    fn title(&self) -> String {
        let prefix = self.filter.prefix.as_ref().map(|prefix| named(&prefix.prefix));
        let client = self.filter.client.as_ref().map(ToString::to_string);
        let names: Vec<_> = [prefix, client].into_iter().flatten().collect();
        match names.is_empty() {
            true => self.tab.title().to_owned(),
            false => format!("{} of {}", self.tab.title(), names.join(", ")),
        }
    }
}

impl Screen {
    pub(super) fn new(url: String, window: Window, by: By) -> Self {
        let path = vec![Shown::new(Tab::Prefixes, Filter::default())];
        Self {
            url,
            window,
            by,
            snapshot: None,
            error: None,
            path,
            help: false,
            choosing: None,
            told: None,
        }
    }

    /// Takes what was heard. What was heard before stays when nothing is.
    pub(super) fn take(&mut self, heard: anyhow::Result<Snapshot>) {
        match heard {
            Ok(mut snapshot) => {
                snapshot.compare(self.snapshot.as_ref());
                (self.snapshot, self.error) = (Some(snapshot), None);
            }
            Err(error) => self.error = Some(error),
        }
    }

    /// Takes what became of a switch.
    pub(super) fn switched(&mut self, switch: &Switch, result: anyhow::Result<()>) {
        let Switch { protection, mode } = switch;
        self.told = Some(result.map(|()| format!("{protection} was switched: {mode}")));
    }

    pub(super) fn key(&mut self, key: KeyEvent) -> Action {
        if key.kind == KeyEventKind::Release {
            return Action::Draw;
        }
        if key.modifiers.contains(KeyModifiers::CONTROL) && key.code == KeyCode::Char('c') {
            return Action::Quit;
        }
        if std::mem::take(&mut self.help) {
            return Action::Draw;
        }
        if let Some(protection) = self.choosing.take() {
            let mode = MODES.iter().find(|(letter, _)| key.code == KeyCode::Char(*letter));
            return match mode {
                Some(&(_, mode)) => Action::Switch(Switch { protection, mode }),
                None => Action::Draw,
            };
        }
        self.told = None;
        match key.code {
            KeyCode::Char('q') => return Action::Quit,
            KeyCode::Char('?') => self.help = true,
            KeyCode::Char('c') => self.by = By::Cost,
            KeyCode::Char('r') => self.by = By::Requests,
            KeyCode::Char('b') => self.by = By::Bytes,
            KeyCode::Char('w') => return self.change_window(),
            KeyCode::Tab => self.change_tab(1),
            KeyCode::BackTab => self.change_tab(Tab::ALL.len() - 1),
            KeyCode::Enter => self.go_inside(),
            KeyCode::Esc | KeyCode::Backspace => self.go_back(),
            code => self.scroll(code),
        }
        Action::Draw
    }

    fn change_window(&mut self) -> Action {
        self.window = if self.window == Window::Minute { Window::Hour } else { Window::Minute };
        Action::Ask(self.window)
    }

    fn change_tab(&mut self, by: usize) {
        let at = Tab::ALL.iter().position(|&tab| tab == self.shown().tab).unwrap_or_default();
        self.path = vec![Shown::new(Tab::ALL[(at + by) % Tab::ALL.len()], Filter::default())];
    }

    fn go_inside(&mut self) {
        let selected = self.shown().selected.selected().unwrap_or_default();
        let mut rows = self.table().rows;
        if selected >= rows.len() {
            return;
        }
        match rows.swap_remove(selected).enter {
            Enter::Nowhere => {}
            Enter::Table(tab, filter) => self.path.push(Shown::new(tab, filter)),
            Enter::Switch(protection) => self.choosing = Some(protection),
        }
    }

    fn go_back(&mut self) {
        if self.path.len() > 1 {
            self.path.pop();
        }
    }

    fn scroll(&mut self, code: KeyCode) {
        const PAGE: u16 = 10;
        let last = self.table().rows.len().saturating_sub(1);
        let state = &mut self.shown_mut().selected;
        match code {
            KeyCode::Down | KeyCode::Char('j') => state.scroll_down_by(1),
            KeyCode::Up | KeyCode::Char('k') => state.scroll_up_by(1),
            KeyCode::PageDown => state.scroll_down_by(PAGE),
            KeyCode::PageUp => state.scroll_up_by(PAGE),
            KeyCode::Home => state.select(Some(0)),
            KeyCode::End => state.select(Some(last)),
            _ => {}
        }
        state.select(state.selected().map(|row| row.min(last)));
    }

    fn shown(&self) -> &Shown {
        &self.path[self.path.len() - 1]
    }

    fn shown_mut(&mut self) -> &mut Shown {
        let last = self.path.len() - 1;
        &mut self.path[last]
    }

    fn table(&self) -> Table {
        let Shown { tab, filter, .. } = self.shown();
        let nothing = Snapshot::default();
        Table::new(self.snapshot.as_ref().unwrap_or(&nothing), *tab, filter, self.by)
    }

    pub(super) fn draw(&mut self, frame: &mut Frame<'_>) {
        let head = self.head(frame.area().width);
        let height = u16::try_from(head.len()).unwrap_or(u16::MAX);
        let parts = [Constraint::Length(height), Constraint::Fill(1), Constraint::Length(1)];
        let [top, middle, bottom] = Layout::vertical(parts).areas(frame.area());
        frame.render_widget(Text::from(head), top);
        self.draw_table(frame, middle);
        frame.render_widget(self.foot(), bottom);
        if self.help {
            draw_help(frame);
        }
    }

    fn head(&self, width: u16) -> Vec<Line<'static>> {
        let summary = match &self.snapshot {
            Some(snapshot) => summary(snapshot, self.window, self.by),
            None => format!("asking {}", self.url),
        };
        let mut lines = vec![Line::from(summary)];
        if let Some(snapshot) = &self.snapshot {
            lines.extend(protections::panel(&snapshot.protection).into_iter().map(Line::from));
        }
        lines.push(self.tabs(width));
        if let Some(error) = &self.error {
            let causes: Vec<_> = error.chain().skip(1).map(ToString::to_string).collect();
            lines.push(Line::from(format!("{error}; trying again")).red().bold());
            lines.push(Line::from(causes.join(": ")).red());
        }
        lines
    }

    fn foot(&self) -> Line<'static> {
        match (&self.choosing, &self.told) {
            (Some(protection), _) => {
                let modes = MODES.map(|(letter, mode)| format!("{letter} {mode}")).join("  ");
                Line::from(format!("{protection}:  {modes}  any other key: as it is")).bold()
            }
            (None, Some(Ok(told))) => Line::from(told.clone()).bold(),
            (None, Some(Err(error))) => Line::from(format!("{error:#}")).red().bold(),
            (None, None) => Line::from("Tab table  Enter inside  Esc back  ? help  q quit").dim(),
        }
    }

    /// Those that there is room for, the one that is shown among them.
    fn tabs(&self, width: u16) -> Line<'static> {
        let root = self.path[0].tab;
        let at = Tab::ALL.iter().position(|&tab| tab == root).unwrap_or_default();
        // Each has a space behind it, and what is left out an ellipsis.
        let needed = |tabs: &[Tab]| tabs.iter().map(|tab| tab.title().len() + 1).sum::<usize>();
        let fits = |from: usize, to: usize| {
            let ellipses = if from > 0 { 2 } else { 0 } + usize::from(to < Tab::ALL.len());
            needed(&Tab::ALL[from..to]) + ellipses <= usize::from(width)
        };
        let from = (0..at).find(|&from| fits(from, at + 1)).unwrap_or(at);
        let to = (at + 1..=Tab::ALL.len()).rev().find(|&to| fits(from, to)).unwrap_or(at + 1);
        let tabs = Tab::ALL[from..to].iter().flat_map(|&tab| {
            let title = Span::raw(tab.title());
            [if tab == root { title.reversed() } else { title.dim() }, Span::raw(" ")]
        });
        let before = (from > 0).then(|| Span::raw("… ").dim());
        let behind = (to < Tab::ALL.len()).then(|| Span::raw("…").dim());
        Line::from_iter(before.into_iter().chain(tabs).chain(behind))
    }

    fn draw_table(&mut self, frame: &mut Frame<'_>, area: Rect) {
        let table = self.table();
        let shown = self.shown_mut();
        let last = table.rows.len().saturating_sub(1);
        shown.selected.select(Some(shown.selected.selected().unwrap_or_default().min(last)));
        let block = Block::bordered().title(shown.title());
        if table.rows.is_empty() {
            return frame.render_widget(Paragraph::new("nothing yet").block(block), area);
        }
        let columns = fitting(&table.columns, block.inner(area).width);
        let cell = |at: usize, text: &str| {
            let column = table.columns[at];
            let side = if column.kind == Kind::Number { Alignment::Right } else { Alignment::Left };
            Cell::new(Text::from(text.to_owned()).alignment(side))
        };
        let line = |texts: &dyn Fn(usize) -> String| {
            let cells = columns.iter().map(|&at| cell(at, &texts(at)));
            ratatui::widgets::Row::new(cells.collect::<Vec<_>>())
        };
        let header = line(&|at| table.columns[at].head.to_owned()).bold();
        let rows = table.rows.iter().map(|row| line(&|at| row.cells[at].clone()));
        let widths = columns.iter().map(|&at| match table.columns[at] {
            Column { kind: Kind::Name, width, .. } => Constraint::Min(width),
            Column { width, .. } => Constraint::Length(width),
        });
        let widget = ratatui::widgets::Table::new(rows, widths)
            .header(header)
            .block(block)
            .row_highlight_style(Style::new().reversed());
        frame.render_stateful_widget(widget, area, &mut shown.selected);
    }
}

/// Those columns that there is room for, in their order.
fn fitting(columns: &[Column], width: u16) -> Vec<usize> {
    let mut ranked: Vec<_> = (0..columns.len()).collect();
    ranked.sort_by_key(|&at| columns[at].rank);
    let mut room = i32::from(width);
    let mut chosen: Vec<_> = ranked
        .into_iter()
        .take_while(|&at| {
            room -= i32::from(columns[at].width) + 1;
            // The last needs no space behind it, and the most important are there anyhow.
            room >= -1 || columns[at].rank == 0
        })
        .collect();
    chosen.sort_unstable();
    chosen
}

/// One line on all of it.
pub(super) fn summary(snapshot: &Snapshot, window: Window, by: By) -> String {
    let total = &snapshot.ranking.total;
    format!(
        "last {} by {}: cost {}, {} requests, {}; seawall {} up {}",
        window.as_str(),
        by.as_str(),
        count(total.cost),
        count(total.requests as f64),
        bytes(total.bytes),
        snapshot.status.version,
        span(snapshot.status.uptime_seconds),
    )
}

/// Keys by which a protection is switched.
const MODES: [(char, &str); 4] =
    [('o', "off"), ('b', "observe"), ('e', "enforce"), ('d', "configured")];

const HELP: [&str; 11] = [
    "Tab, Shift-Tab   next, previous table",
    "Up, Down, k, j   select a row",
    "Enter            prefix to its clients,",
    "                 client to its requests,",
    "                 a protection to its switch",
    "Esc              back",
    "c  r  b          by cost, requests, bytes",
    "w                last minute or hour",
    "?                this help",
    "q, Ctrl-C        quit",
    "Any key closes this.",
];

fn draw_help(frame: &mut Frame<'_>) {
    let (width, height) = (44, HELP.len() as u16 + 2);
    let area = frame.area().centered(Constraint::Length(width), Constraint::Length(height));
    frame.render_widget(Clear, area);
    let lines = Text::from_iter(HELP);
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title("Help")), area);
}

#[cfg(test)]
mod tests;
