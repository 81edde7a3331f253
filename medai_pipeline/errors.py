"""The one error tree. Every message is one line, says what to do next, and never holds an identity.

MedaiError
├── SettingsError            a setting is missing or makes no sense
├── DicomError               one file or one image cannot be used
│   ├── NotDicom             the bytes are not a DICOM file
│   ├── TruncatedFile        the file ends before its data does
│   ├── NoPixels             a DICOM object without an image
│   ├── UndecodablePixels    the transfer syntax or the bit stream cannot be decoded here
│   └── UnsupportedImage     decodable, but not something a model may see (localizer, report, ...)
│       └── UnfitValues      an image of the patient whose values are not what the model was made for
├── DeidentificationError    an object could not be de-identified: it fails closed and goes nowhere
├── StudyError               the study as a whole cannot go on (stage and reason)
│   ├── NoUsableImages       nothing in the study can be given to a model
│   └── StudyForgotten       a person had the study forgotten: nothing of it is read or kept any more
├── ModelError
│   ├── ModelNotFound        no such name or version
│   ├── WeightsMissing       the catalog knows the model, its file is not there
│   ├── WeightsRefused       wrong digest, wrong shape, not finite
│   ├── CardRefused          a model card lacks something, or says what cannot be
│   ├── ModelChanged         other models are in force than those a stored value was made for
│   └── RegistryRefused      what the registry does not allow: a change of state, a second card for a version
├── PacsError
│   ├── PacsUnreachable      no answer (retry)
│   ├── PacsBusy             it answers that it cannot now: HTTP 5xx (retry)
│   ├── PacsUnauthorized     401 or 403 (do not retry before the settings change)
│   └── PacsNotFound         the study or instance is not there (any more)
├── StorageError
│   ├── DatabaseUnreachable  Postgres does not answer (retry)
│   ├── StorageFull          no space left on the device (retry after making room)
│   ├── ObjectMissing        an object that the database names is not in the store
│   └── ObjectCorrupt        an object fails its authentication tag or digest
├── WebError                 what a caller of the API or the pages did; its status is in `web/problems`
│   ├── NotLoggedIn          nobody is logged in, or the login or token has ended
│   ├── LoginRefused         name or password are wrong, or the account is disabled
│   ├── NotAllowed           the role does not permit it, or the request does not come from our page
│   ├── NotFound             nothing here has this id, or it may not be known to who asks
│   ├── Conflict             the state of the thing does not allow it now
│   ├── ChangedMeanwhile     somebody else has changed it since it was read (If-Match)
│   ├── Unprocessable        the content makes no sense (also: an idempotency key used for another body)
│   ├── PreconditionMissing  the write must say which version it changes (If-Match)
│   ├── TooLarge             more bytes than MEDAI_MAX_UPLOAD_MB
│   ├── TooSlow              an upload that does not go on
│   └── TooMany              too many tries; `retry_after_s` says when again
└── StackError               the local stack cannot start (port in use, already running, Orthanc missing)
"""


class MedaiError(Exception):
    """Base of all errors this package raises on purpose. `retryable` says whether trying again can help."""

    retryable = False

    @property
    def reason(self) -> str:
        """The message as one line, fit to be shown beside a study."""
        return " ".join(str(self).split())


class SettingsError(MedaiError):
    pass


class DicomError(MedaiError):
    """`code` is stable and is what tables group by."""

    code = "dicom"


class NotDicom(DicomError):
    code = "not-dicom"


class TruncatedFile(DicomError):
    code = "truncated"


class NoPixels(DicomError):
    code = "no-pixels"


class UndecodablePixels(DicomError):
    code = "undecodable"


class UnsupportedImage(DicomError):
    code = "unsupported"


class UnfitValues(UnsupportedImage):
    code = "unfit-values"


class DeidentificationError(MedaiError):
    pass


class StudyError(MedaiError):
    pass


class NoUsableImages(StudyError):
    pass


class StudyForgotten(StudyError):
    pass


class ModelError(MedaiError):
    pass


class ModelNotFound(ModelError):
    pass


class WeightsMissing(ModelError):
    pass


class WeightsRefused(ModelError):
    pass


class ManifestRefused(ModelError):
    """A training manifest that cannot be used; names the line."""


class CardRefused(ModelError):
    pass


class ModelChanged(ModelError):
    pass


class RegistryRefused(ModelError):
    pass


class PacsError(MedaiError):
    pass


class PacsUnreachable(PacsError):
    retryable = True


class PacsBusy(PacsError):
    retryable = True


class PacsUnauthorized(PacsError):
    pass


class PacsNotFound(PacsError):
    pass


class StorageError(MedaiError):
    pass


class DatabaseUnreachable(StorageError):
    retryable = True


class StorageFull(StorageError):
    retryable = True


class ObjectMissing(StorageError):
    pass


class ObjectCorrupt(StorageError):
    pass


class StackError(MedaiError):
    pass


class WebError(MedaiError):
    pass


class NotLoggedIn(WebError):
    pass


class LoginRefused(WebError):
    pass


class NotAllowed(WebError):
    pass


class NotFound(WebError):
    pass


class Conflict(WebError):
    pass


class ChangedMeanwhile(WebError):
    pass


class Unprocessable(WebError):
    pass


class PreconditionMissing(WebError):
    pass


class TooLarge(WebError):
    pass


class TooSlow(WebError):
    pass


class TooMany(WebError):
    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
