"""The local Orthanc: its binary, its configuration, its password, its command. For loopback alone.

Orthanc before 1.12.10 cannot bind one address: both listeners stand on every interface. So HTTP refuses what does
not come from this machine (RemoteAccessAllowed) and asks for a password. A C-STORE from another machine fails with
status A700H, whatever AE title it calls itself: the script raises an error. A filter that only answers false would
throw the object away and tell the sender Success, who may then delete the last copy. From 1.12.10 on HTTP binds
loopback alone.
"""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from medai_pipeline.errors import StackError
from medai_pipeline.local.paths import Home, write_private
from medai_pipeline.local.ports import LOOPBACK
from medai_pipeline.local.supervisor import Service

AE_TITLE = "MEDAI"
PLACES = ("/usr/sbin", "/usr/local/sbin", "/usr/bin", "/opt/orthanc")

SENDERS_ONLY = """\
-- C-STORE from these addresses only; REST uploads have passed RemoteAccessAllowed and the password.
local senders = {%s}
function ReceivedInstanceFilter(dicom, origin)
  if origin.RequestOrigin == 'DicomProtocol' and not senders[origin.RemoteIp] then
    error('C-STORE from an address that MEDAI_DICOM_SENDERS does not name')
  end
  return true
end
"""


@dataclass(frozen=True)
class LocalOrthanc:
    """An Orthanc on 127.0.0.1 with its storage under MEDAI_HOME. `password` None: made at random and kept."""

    home: Home
    http_port: int
    dicom_port: int
    username: str
    given_password: str | None = None
    senders: tuple[str, ...] = ()  # IP addresses of other machines that may C-STORE here

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.http_port}"

    @property
    def password(self) -> str:
        if self.given_password:
            return self.given_password
        path = self.home.run / "orthanc.password"
        if not path.exists():
            write_private(path, secrets.token_urlsafe(24))
        return path.read_text().strip()

    def service(self, environment: Mapping[str, str]) -> Service:
        """Writes the configuration. Raises StackError where no Orthanc is installed."""
        binary = find_binary()
        write_private(self.home.run / "orthanc.lua", senders_script(self.senders))
        configuration = self.home.run / "orthanc.config"
        write_private(configuration, json.dumps(self.configuration(), indent=1))
        return Service(
            name="orthanc",
            command=(str(binary), str(configuration)),
            ready=self.ready,
            environment=environment,
            shown=f"{self.url} (DICOM port {self.dicom_port})",
        )

    def configuration(self) -> dict[str, object]:
        return {
            "Name": "medai",
            "StorageDirectory": str(self.home.orthanc),
            "IndexDirectory": str(self.home.orthanc),
            "StorageCompression": False,  # we hash and fetch files as they came
            "StoreMD5ForAttachments": True,  # the study digest is made of them
            "SyncStorageArea": True,  # a file is on disk before its sender hears Success
            "OverwriteInstances": False,  # the first file stays: a re-send is AlreadyStored
            "StableAge": 5,  # a hint only
            "HttpPort": self.http_port,
            "HttpBindAddresses": [LOOPBACK],
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": True,
            "RegisteredUsers": {self.username: self.password},
            "HttpCompressionEnabled": False,
            "WebDavEnabled": False,
            "ExecuteLuaEnabled": False,
            "DicomAet": AE_TITLE,
            "DicomPort": self.dicom_port,
            "DicomCheckCalledAet": False,
            "DicomAlwaysAllowEcho": True,
            "DicomAlwaysAllowStore": True,  # any AE title; from where, the script says
            "UnknownSopClassAccepted": True,
            "LuaScripts": [str(self.home.run / "orthanc.lua")],
            "Plugins": [],
            "DeidentifyLogs": True,
        }

    def ready(self) -> bool:
        try:
            with httpx.Client(trust_env=False, timeout=2) as client:
                return client.get(f"{self.url}/system", auth=(self.username, self.password)).is_success
        except httpx.TransportError:
            return False


def senders_script(senders: Iterable[str]) -> str:
    """Lua that refuses a C-STORE from anywhere but this machine and `senders` (IP addresses)."""
    return SENDERS_ONLY % ", ".join(f"['{address}'] = true" for address in (LOOPBACK, *senders))


def find_binary() -> Path:
    """Raises StackError that says what to install."""
    found = shutil.which("Orthanc") or next(
        (str(Path(place) / "Orthanc") for place in PLACES if (Path(place) / "Orthanc").is_file()), None
    )
    if not found:
        raise StackError("no Orthanc is installed here: `apt-get install orthanc`, or set ORTHANC_URL to a running one")
    return Path(found)
