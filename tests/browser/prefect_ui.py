"""The pages of Prefect's interface, used as a person uses them: found by role, label and text.

Nothing here knows how the pages are built. Seen in the interface of Prefect 3.8.8 that its address
opens by default (version 2).
"""

import re
import time
from contextlib import suppress
from dataclasses import dataclass

from playwright.sync_api import Locator, Page, expect
from playwright.sync_api import TimeoutError as TooLateError

_STATES = ("Completed", "Failed", "Crashed", "Cancelled")
_END_MS = 240_000
"""How long a study may take; one of seconds takes minutes where all cores are busy."""

_RELOAD_MS = 3_000


@dataclass(frozen=True)
class RunForm:
    """The form that starts a flow run.

    Attributes:
        page: The page that shows it.
    """

    page: Page

    def name_run(self, name: str) -> None:
        """Name the flow run.

        Args:
            name: Its name.
        """
        self.page.get_by_role("textbox", name="Run Name").fill(name)

    def number(self, title: str) -> Locator:
        """Return the input of a number.

        Args:
            title: Of the field.
        """
        return self.page.get_by_role("spinbutton", name=title)

    def write(self, title: str, text: str) -> None:
        """Fill in a text.

        Args:
            title: Of the field.
            text: What is written.
        """
        self.page.get_by_role("textbox", name=title).fill(text)

    def select(self, title: str, choice: str) -> None:
        """Choose in a drop-down list.

        Args:
            title: Of the field.
            choice: What is chosen.
        """
        self.page.get_by_role("button", name=f"Select {title}").click()
        self.page.get_by_role("option", name=choice, exact=True).click()

    def submit(self) -> None:
        """Ask for the flow run; the form may refuse."""
        self.page.get_by_role("button", name="Submit").click()

    def start(self) -> "FlowRun":
        """Ask for the flow run, which the form has to accept, and open its page."""
        self.submit()
        self.page.get_by_role("button", name="View run").click()
        self.page.wait_for_url("**/runs/flow-run/**")
        return FlowRun(self.page)


@dataclass(frozen=True)
class FlowRun:
    """The page of a flow run.

    Attributes:
        page: The page that shows it.
    """

    page: Page

    def show(self, tab: str) -> Locator:
        """Open one of the tabs.

        Args:
            tab: Its title.

        Returns:
            What the tab shows.
        """
        self.page.get_by_role("tab", name=tab, exact=True).click()
        return self.page.get_by_role("tabpanel", name=tab)

    def task_run(self, name: str) -> Locator:
        """Return what the page says of a task run, while the tab of task runs is open.

        Args:
            name: What its name begins with.
        """
        link = self.page.get_by_role("link", name=re.compile(rf"^{re.escape(name)}\b"))
        return (
            self.page.get_by_role("tabpanel", name="Task Runs")
            .get_by_role("listitem")
            .filter(has=link, has_text=re.compile(r"\d\d:\d\d:\d\d"))
        )

    def await_task_run(self, name: str, state: str) -> None:
        """Wait until a task run is in a state.

        Args:
            name: What its name begins with.
            state: Name of the state.
        """
        self._await("Task Runs", self.task_run(name).filter(has_text=state))

    def await_log(self, text: str) -> None:
        """Wait until the log has a text.

        Args:
            text: A part of a line.
        """
        self._await("Logs", self.page.get_by_role("tabpanel", name="Logs").get_by_text(text))

    def _await(self, tab: str, shown: Locator) -> None:
        """Wait for what a tab shows; the page asks anew every 30 s, or never: it is reloaded."""
        deadline = time.monotonic() + _END_MS / 1000
        while time.monotonic() < deadline:
            self.show(tab)
            with suppress(TooLateError):
                shown.first.wait_for(timeout=_RELOAD_MS)
                return
            self.page.reload()
        expect(shown.first).to_be_visible()

    def open_artifact(self, description: str) -> None:
        """Open one of the artifacts, in its newest version.

        Args:
            description: What its description begins with.
        """
        self.show("Artifacts").get_by_role("link", name=description).click()
        self.page.get_by_role("link", name=re.compile(r"^[0-9a-f]{8}$")).first.click()
        expect(self.page.get_by_role("tabpanel", name="Artifact")).to_be_visible()

    def end(self) -> str:
        """Wait until the flow run has ended, and return the state that the page shows."""
        self.show("Logs")  # where no state of a task run is taken for it
        shown = self._state(*_STATES)
        expect(shown).to_be_visible(timeout=_END_MS)
        return shown.inner_text().strip()

    def cancel(self) -> None:
        """Cancel it, and confirm that."""
        self._choose("Cancel", "Cancel Flow Run")

    def pause(self) -> None:
        """Pause it, for as long as the page proposes, confirm that, and wait until it is shown."""
        self._choose("Pause", "Pause Flow Run")
        expect(self._state("Suspended")).to_be_visible()

    def resume(self) -> None:
        """Resume it, confirm that, and wait until it is no longer shown as paused."""
        self._choose("Resume", "Resume")
        expect(self._state("Suspended")).to_be_hidden()

    def retry(self) -> None:
        """Retry it, confirm that, and wait until it is no longer at an end."""
        self._choose("Retry", "Retry")
        expect(self._state(*_STATES)).to_be_hidden()

    def copy(self) -> RunForm:
        """Open the form of a further run, filled in as this one was."""
        self._open_menu()
        self.page.get_by_role("menuitem", name="Copy to new run").click()
        expect(self.page.get_by_role("button", name="Submit")).to_be_visible()
        return RunForm(self.page)

    def _open_menu(self) -> None:
        self.show("Logs")
        self.page.get_by_role("main").get_by_role("button", name="Open menu").click()

    def _choose(self, item: str, confirmation: str) -> None:
        self._open_menu()
        self.page.get_by_role("menuitem", name=item, exact=True).click()
        # A dialog that asks back is an alert; one with a field, as that of Pause, is none.
        dialog = self.page.get_by_role("alertdialog").or_(self.page.get_by_role("dialog"))
        dialog.get_by_role("button", name=confirmation, exact=True).click()
        expect(dialog).to_be_hidden()

    def _state(self, *names: str) -> Locator:
        pattern = re.compile(rf"^\s*({'|'.join(names)})\s*$")
        return self.page.get_by_role("main").get_by_text(pattern).first


def open_deployment(page: Page, address: str, deployment: str) -> None:
    """Find a deployment from the start page on, and open its page.

    Args:
        page: Any page.
        address: Of the interface.
        deployment: Name of the deployment.
    """
    page.goto(address)
    page.get_by_role("link", name="Deployments").first.click()
    page.wait_for_url("**/deployments?**")  # the page before links to flows of the same names
    links = page.get_by_role("link", name=deployment, exact=True)
    links.and_(page.locator("[href*='/deployments/deployment/']")).first.click()
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_visible()


def schedule_switch(page: Page) -> Locator:
    """Return the switch of the only schedule on the page of a deployment: on is active.

    Args:
        page: The page.
    """
    return page.get_by_role("switch", name=re.compile("^toggle "))


def open_form(page: Page, address: str, deployment: str) -> RunForm:
    """Find a deployment from the start page on, and open the form that runs it.

    Args:
        page: Any page.
        address: Of the interface.
        deployment: Name of the deployment.
    """
    open_deployment(page, address, deployment)
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Custom run").click()
    expect(page.get_by_role("button", name="Submit")).to_be_visible()
    return RunForm(page)
