"""DICOM by TLS with dcmtk and a real Orthanc on the other end: both ends verify, and nothing weaker is agreed on."""

from __future__ import annotations

import json
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from medai_pipeline.errors import PacsError, PacsUnauthorized, PacsUnreachable, SettingsError
from medai_pipeline.local.orthanc import LocalOrthanc
from medai_pipeline.local.paths import Home
from medai_pipeline.local.ports import free_port
from medai_pipeline.local.supervisor import Supervisor
from medai_pipeline.pacs.dimse import echo_node, store_many
from medai_pipeline.pacs.find import find
from medai_pipeline.pacs.node import Node, parse_node
from medai_pipeline.pacs.receiver import Listening, Receiver
from medai_pipeline.pacs.retrieve import get
from medai_pipeline.pacs.tls import TlsFiles
from medai_pipeline_tests.dcmtk import answering, dcmtk, program, served
from medai_pipeline_tests.orthanc import file_bytes, made_study


@dataclass(frozen=True)
class Authority:
    """A certificate authority of the test, and the files it signs."""

    folder: Path
    key: rsa.RSAPrivateKey
    certificate: x509.Certificate

    @property
    def file(self) -> Path:
        return self.folder / "authority.pem"

    def files(self, name: str, address: str = "127.0.0.1") -> TlsFiles:
        """A certificate and key for `name`, valid at `address`."""
        key = rsa.generate_private_key(65537, 2048)
        builder = _builder(name, self.certificate.subject, key).add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))]), critical=False
        )
        certificate, private = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certificate.write_bytes(builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        private.write_bytes(_pem(key))
        private.chmod(0o600)
        return TlsFiles(certificate, private, self.file)


def _pem(key: rsa.RSAPrivateKey) -> bytes:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL
    return key.private_bytes(encoding, form, serialization.NoEncryption())


def _builder(name: str, issuer: x509.Name, key: rsa.RSAPrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=30))
    )


def made_authority(folder: Path, name: str) -> Authority:
    key = rsa.generate_private_key(65537, 2048)
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        _builder(name, issuer, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    authority = Authority(folder, key, certificate)
    authority.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return made_authority(tmp_path_factory.mktemp("authority"), "Authority of the test")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return made_authority(tmp_path_factory.mktemp("stranger"), "Another authority")


@pytest.fixture(scope="module")
def ours(authority: Authority) -> TlsFiles:
    return authority.files("ours")


@pytest.fixture(scope="module")
def theirs(authority: Authority) -> TlsFiles:
    return authority.files("theirs")


def dcmtk_tls(files: TlsFiles) -> list[str]:
    return ["+tls", str(files.key), str(files.certificate), "+cf", str(files.authorities)]


@contextmanager
def storescp(theirs: TlsFiles, ours: TlsFiles, folder: Path) -> Iterator[Node]:
    """dcmtk's storescp, which asks for a certificate."""
    node = Node("127.0.0.1", free_port(), "STORESCP", tls=ours)
    command = [program("storescp"), *dcmtk_tls(theirs), "-od", str(folder), str(node.port)]
    with (folder / "log").open("wb") as log, served(command, log) as process:
        answering(node, process)
        yield node


def test_we_store_to_dcmtk_and_each_knows_the_other(
    theirs: TlsFiles, ours: TlsFiles, stranger: Authority, tmp_path: Path
) -> None:
    with storescp(theirs, ours, tmp_path) as node:
        results = store_many(node, [file_bytes(dataset) for dataset in made_study(3)])
        assert [result.status for result in results] == ["Success"] * 3
        assert len(list(tmp_path.glob("CT*"))) == 3
        with pytest.raises(PacsUnauthorized, match="certificate"):
            echo_node(replace(node, tls=replace(ours, authorities=stranger.file)))
        with pytest.raises(PacsError):  # without a certificate of ours, or one that they do not trust
            echo_node(replace(node, tls=TlsFiles(authorities=ours.authorities)))
        with pytest.raises(PacsError):
            echo_node(replace(node, tls=replace(stranger.files("liar"), authorities=ours.authorities)))
        with pytest.raises(PacsError):
            echo_node(replace(node, tls=None))
        echo_node(node)


def test_a_server_by_another_name_is_not_believed(authority: Authority, ours: TlsFiles, tmp_path: Path) -> None:
    elsewhere = authority.files("elsewhere", "192.0.2.1")
    node = Node("127.0.0.1", free_port(), "STORESCP", tls=ours)
    command = [program("storescp"), *dcmtk_tls(elsewhere), "-od", str(tmp_path), str(node.port)]
    with (tmp_path / "log").open("wb") as log, served(command, log) as process:
        with pytest.raises(AssertionError, match="does not answer"):
            answering(node, process, within_s=2)
        with pytest.raises(PacsUnauthorized, match="address"):
            echo_node(node)


def test_dcmtk_stores_to_us_with_a_certificate_and_not_without(
    theirs: TlsFiles, ours: TlsFiles, stranger: Authority, tmp_path: Path
) -> None:
    path = tmp_path / "0.dcm"
    path.write_bytes(file_bytes(made_study(1)[0]))
    kept: list[bytes] = []
    with Receiver(Listening(0, tls=ours), kept.append) as listening:

        def sent(*tls: str) -> bool:
            return dcmtk("storescu", *tls, "-aec", "MEDAI", "127.0.0.1", listening.port, path).returncode == 0

        assert not sent(), "in clear"
        assert not sent("+tla", "+cf", str(ours.authorities)), "without a certificate"
        assert not sent(*dcmtk_tls(replace(stranger.files("liar"), authorities=ours.authorities))), "of a stranger"
        assert kept == []
        assert sent(*dcmtk_tls(theirs))
    assert len(kept) == 1


def test_nothing_older_or_weaker_is_agreed_on(ours: TlsFiles) -> None:
    with Receiver(Listening(0, tls=ours), print) as listening:

        def agreed(version: ssl.TLSVersion, ciphers: str) -> tuple[str, str]:
            context = ours.client()
            context.minimum_version = context.maximum_version = version
            context.set_ciphers(ciphers)
            with (
                socket.create_connection(("127.0.0.1", listening.port), timeout=20) as plain,
                context.wrap_socket(plain, server_hostname="127.0.0.1") as wrapped,
            ):
                cipher = wrapped.cipher()
                assert cipher
                return str(wrapped.version()), cipher[0]

        assert agreed(ssl.TLSVersion.TLSv1_3, "DEFAULT")[0] == "TLSv1.3"
        assert agreed(ssl.TLSVersion.TLSv1_2, "DEFAULT")[1].startswith("ECDHE-RSA-AES")
        with pytest.raises(OSError):
            agreed(ssl.TLSVersion.TLSv1_2, "AES128-SHA:AES256-GCM-SHA384:ECDHE-RSA-AES128-SHA")
        with pytest.raises((OSError, ValueError)):
            agreed(ssl.TLSVersion.TLSv1_1, "DEFAULT@SECLEVEL=0")


def test_a_peer_that_never_shakes_hands_keeps_nobody_else_waiting(theirs: TlsFiles, ours: TlsFiles) -> None:
    with (
        Receiver(Listening(0, tls=ours), print) as listening,
        socket.create_connection(("127.0.0.1", listening.port), timeout=20),
    ):
        echo_node(Node("127.0.0.1", listening.port, "MEDAI", tls=theirs))


def test_orthanc_by_tls_is_asked_and_fetched_from(theirs: TlsFiles, ours: TlsFiles, tmp_path: Path) -> None:
    home = Home(tmp_path / "home").make()
    local = LocalOrthanc(home, free_port(), free_port(), "medai")
    service = local.service(dict(os.environ))
    configuration = json.loads(Path(service.command[1]).read_text())
    configuration |= {
        "DicomTlsEnabled": True,
        "DicomTlsCertificate": str(theirs.certificate),
        "DicomTlsPrivateKey": str(theirs.key),
        "DicomTlsTrustedCertificates": str(theirs.authorities),
        "DicomTlsRemoteCertificateRequired": True,
        "DicomAlwaysAllowFind": True,
        "DicomAlwaysAllowGet": True,
    }
    Path(service.command[1]).write_text(json.dumps(configuration))
    supervisor = Supervisor(home, echo=print)
    try:
        supervisor.start(service)
        node = Node("127.0.0.1", local.dicom_port, "MEDAI", tls=ours)
        datasets = made_study(2)
        assert all(result.stored for result in store_many(node, [file_bytes(dataset) for dataset in datasets]))
        keys = {"StudyInstanceUID": str(datasets[0].StudyInstanceUID)}
        (study,) = find(node, "STUDY", keys)
        kept: list[bytes] = []
        assert get(node, "STUDY", keys, kept.append).completed == len(kept) == 2
        with pytest.raises(PacsUnreachable):
            echo_node(replace(node, tls=None))
    finally:
        supervisor.stop()


def test_files_that_cannot_serve_are_named_before_anything_is_opened(
    ours: TlsFiles, theirs: TlsFiles, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="MEDAI_DICOM_TLS_CERTIFICATE"):
        TlsFiles().server()
    with pytest.raises(SettingsError, match=r"gone\.pem"):
        TlsFiles(authorities=tmp_path / "gone.pem").client()
    with pytest.raises(SettingsError, match=r"theirs\.key"):
        TlsFiles(ours.certificate, theirs.key).server()
    open_key = tmp_path / "open.key"
    assert ours.key
    open_key.write_bytes(ours.key.read_bytes())
    open_key.chmod(0o644)
    with pytest.raises(SettingsError, match="chmod"):
        TlsFiles(ours.certificate, open_key).server()


def test_the_name_of_a_node_says_whether_tls_is_used() -> None:
    assert parse_node("dicom://ARCHIVE@10.0.0.5:104", "US") == Node("10.0.0.5", 104, "ARCHIVE", "US")
    assert parse_node("dicoms://MY PACS@pacs:2762").tls == TlsFiles()
    for wrong in ("ARCHIVE@10.0.0.5:104", "dicom://10.0.0.5:104", "dicom://A@h", "dicom://A@h:0x1", "http://A@h:1"):
        with pytest.raises(SettingsError, match="dicom://AET@HOST:PORT"):
            parse_node(wrong)
