"""The second way in: what is sent to us or dropped in a folder, kept sealed until the PACS has it. Studies are the sensor's."""
