"""Class activation maps, their regions and quality, and the overlay picture. Takes features and arrays, knows no DICOM file."""
