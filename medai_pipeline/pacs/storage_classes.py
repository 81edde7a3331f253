"""Which storage SOP classes the objects of a series may have, by its Modality: for a PACS that does not tell the class.

PS3.3 C.7.3.1.1.1 names the modalities, PS3.4 B.5 the classes.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydicom import uid

_BY_MODALITY: Mapping[str, tuple[str, ...]] = {
    "CR": (uid.ComputedRadiographyImageStorage, uid.DigitalXRayImageStorageForPresentation),
    "DX": (
        uid.DigitalXRayImageStorageForPresentation, uid.DigitalXRayImageStorageForProcessing,
        uid.ComputedRadiographyImageStorage,
    ),
    "CT": (uid.CTImageStorage, uid.EnhancedCTImageStorage, uid.LegacyConvertedEnhancedCTImageStorage),
    "MR": (
        uid.MRImageStorage, uid.EnhancedMRImageStorage, uid.LegacyConvertedEnhancedMRImageStorage,
        uid.MRSpectroscopyStorage,
    ),
    "MG": (
        uid.DigitalMammographyXRayImageStorageForPresentation, uid.DigitalMammographyXRayImageStorageForProcessing,
        uid.BreastTomosynthesisImageStorage,
    ),
    "PT": (uid.PositronEmissionTomographyImageStorage, uid.EnhancedPETImageStorage),
    "NM": (uid.NuclearMedicineImageStorage,),
    "US": (uid.UltrasoundImageStorage, uid.UltrasoundMultiFrameImageStorage),
    "XA": (uid.XRayAngiographicImageStorage, uid.EnhancedXAImageStorage),
    "RF": (uid.XRayRadiofluoroscopicImageStorage, uid.EnhancedXRFImageStorage),
    "SR": (
        uid.BasicTextSRStorage, uid.EnhancedSRStorage, uid.ComprehensiveSRStorage, uid.Comprehensive3DSRStorage,
        uid.XRayRadiationDoseSRStorage,
    ),
    "SEG": (uid.SegmentationStorage,),
    "PR": (uid.GrayscaleSoftcopyPresentationStateStorage, uid.ColorSoftcopyPresentationStateStorage),
    "KO": (uid.KeyObjectSelectionDocumentStorage,),
    "DOC": (uid.EncapsulatedPDFStorage,),
}  # fmt: skip
_ANYWHERE = (uid.SecondaryCaptureImageStorage, uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage)


def classes_of(modality: str) -> tuple[str, ...]:
    """The likely classes; () for a modality that is not listed."""
    known = _BY_MODALITY.get(modality.strip(), ())
    return (*known, *_ANYWHERE) if known else ()
