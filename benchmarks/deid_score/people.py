"""Invented patients for the scorer: names as people have them, not markers, so that no tool knows them by their look."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field


@dataclass(eq=False)
class Who:
    """One invented patient at one visit. `secrets`: every word planted that identifies; `useful`: text -> its harmless words."""

    family: str
    given: str
    patient_id: str
    birth_date: str
    study_date: str
    accession: str
    physician: str
    operator: str
    hospital: str
    town: str
    phone: str
    device: str
    station: str
    secrets: set[str] = field(default_factory=set)
    useful: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = f"{self.family} {self.given} {self.physician} {self.operator}".replace("^", " ").replace("-", " ")
        self.secrets |= {word for word in names.split() if len(word) > 3}
        self.secrets |= {self.patient_id, self.birth_date, self.study_date, self.accession, self.phone, self.device}
        self.secrets |= {self.station, self.hospital, self.town}

    def secret(self, word: str) -> str:
        """Registers a word that identifies."""
        self.secrets.add(word)
        return word

    def text(self, value: str, *useful: str) -> str:
        """Registers free text of which only `useful` may stay where it is cleaned."""
        self.useful[value] = useful
        return value

    def day(self, style: str = "%Y%m%d", after: int = 0) -> str:
        """The study's date (+ days) in one of the ways people write it; registered as secret."""
        date = dt.datetime.strptime(self.study_date, "%Y%m%d") + dt.timedelta(days=after)
        return self.secret(date.strftime(style))


def patients() -> dict[str, Who]:
    """Four people; the first comes twice."""
    first = ("Okonkwo-Feldmann", "Xiomara", "QX7731904", "19470319")
    rest = (
        "^Vandersteen",
        "Brzezicki^Ola",
        "Lakeridge Infirmary",
        "Porthaven",
        "555-0147-882",
        "SN88A-31477",
        "CTLKR07",
    )
    return {
        "xiomara": Who(*first, "20030914", "AC4471902", *rest),
        "xiomara-later": Who(*first, "20040127", "AC4503316", *rest),
        "tadeusz": Who("Wrzesniewski", "Tadeusz", "HN-204415-K", "19520808", "20110405", "RA20110405-77", "Halvorsen^Ingrid",
                       "Mbeki^Sipho", "Sct. Olavs Klinikk", "Trondheim", "+47 5550 1182", "DX-99-4410", "DXROOM4"),
        "yuriko": Who("Yamashita", "Yuriko", "0099-3310-7", "19810611", "20170822", "7719-20170822", "Kobayashi^Renjiro",
                      "Delacroix^Marceline", "Aoyama Imaging Center", "Minatoku", "03-5550-9921", "MR3T-00512", "MRAOY2"),
        "ambrose": Who("Fitzwilliam", "Ambrose", "PT/5520/B", "19330527", "20190302", "US-19-00417", "Petrosyan^Anahit",
                       "Lindqvist^Tove", "Saint Columba Hospital", "Inverlochy", "0800-555-2231", "US700-66123", "ECHO3B"),
        "francoise": Who("Lüdenscheidt-Bérard", "Françoise", "É-4417-Ü", "19640222", "20220218", "22-0218-000418",
                         "Größwang^Jürgen", "Þórsdóttir^Ásta", "Hôpital Saint-Éloi", "Montpellier-Nord", "04 55 50 19 82",
                         "CTÅ-1187", "CT_ELOI_2"),
        "hanako": Who("Takeuchi", "Hanako", "JP-7741-003", "19771203", "20180606", "A20180606-5", "Morimoto^Daisuke",
                      "Nagashima^Aoi", "Sakura General", "Matsudo", "047-555-1190", "MR-JP-5512", "MRSAKURA"),
    }  # fmt: skip
