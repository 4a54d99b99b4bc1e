"""Alerts people can live with: alarms of one resource are one alert, opened after several and closed when it is quiet."""
