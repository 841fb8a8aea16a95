"""Templates, and values printed by them: quoted for the format of the file, by the place at which they stand.

`marks` has printed values within a template's output, `configuration` and `data` quote values for each format,
`environment` is the Jinja2 environment, `filters` has its filters, `views` what templates see of services.
"""
